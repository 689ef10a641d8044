"""Obtain the label files from the published address, a mirror, a folder or an archive file.

All end as verified local files.
"""

from dataclasses import dataclass
from pathlib import Path

from hemseg_cli.config import Config
from hemseg_cli.core.classes import LabelClass
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.http import (
    HttpError,
    HttpSettings,
    check_url,
    http_settings,
    is_url,
    shown,
)
from hemseg_cli.dataset.labels.published import (
    BASE_URL,
    PUBLISHED,
    SOURCE_JSON,
    HashedFile,
    PublishedLabels,
    parse_source_json,
)
from hemseg_cli.dataset.slices.download import download, download_small, verify

_NOT_FOUND = 404


@dataclass(frozen=True)
class LabelFiles:
    """The verified files on this disk."""

    archive: Path
    manifest: Path
    tables: tuple[tuple[HashedFile, Path], ...]
    origin: str
    classes: tuple[LabelClass, ...] = ()


def obtain_label_files(config: Config, cache: Path) -> LabelFiles:
    """Find or download the archive, the manifest and the tables of `config.data.dataset`.

    Downloads are kept in `cache`.

    UsageError where nothing says what the files are; otherwise the errors of `download`.
    """
    dataset, source = config.data.dataset, config.fetch.source
    if source is None:
        if dataset not in PUBLISHED:
            raise UsageError(
                f"data set {dataset} is not a published one ({', '.join(PUBLISHED)})",
                hint=f"--source FOLDER|URL names a place that holds {SOURCE_JSON}, "
                "the archive and the manifest",
            )
        return _from_url(PUBLISHED[dataset], BASE_URL, cache, http_settings(config))
    if is_url(source):
        check_url(source)
        settings = http_settings(config)
        path = source.partition("?")[0].rstrip("/")
        base, archive_url = (
            (path.rpartition("/")[0], source) if path.endswith(".zip") else (path, None)
        )
        files = PUBLISHED.get(dataset) or _source_json_at(f"{base}/{SOURCE_JSON}", settings)
        return _from_url(files, base, cache, settings, archive_url=archive_url)
    return _from_disk(dataset, Path(source), cache, http_settings(config))


def _from_disk(dataset: str, source: Path, cache: Path, settings: HttpSettings) -> LabelFiles:
    if not source.exists():
        raise HemsegError(
            f"--source {source} does not exist", hint="a folder, an archive file, or an https URL"
        )
    folder = source if source.is_dir() else source.parent
    files = PUBLISHED.get(dataset) or _source_json_in(folder, dataset)
    archive = source if source.is_file() else _in_folder(folder, files.archive)
    manifest = _in_folder(folder, files.manifest)
    if archive is None:
        raise HemsegError(
            f"{source} holds no {files.archive.name}", hint=f"data set {dataset} is made from it"
        )
    verify(archive, files.archive)
    if manifest is None:
        if dataset not in PUBLISHED:
            raise HemsegError(
                f"{folder} holds no {files.manifest.name}", hint=f"{SOURCE_JSON} names it"
            )
        manifest = _download(files.manifest, BASE_URL, cache, settings)
    verify(manifest, files.manifest)
    tables = [
        (table, path) for table in files.tables if (path := _in_folder(folder, table)) is not None
    ]
    for table, path in tables:
        verify(path, table)
    return LabelFiles(archive, manifest, tuple(tables), str(source), files.classes)


def _from_url(
    files: PublishedLabels,
    base: str,
    cache: Path,
    settings: HttpSettings,
    *,
    archive_url: str | None = None,
) -> LabelFiles:
    archive = cache / files.archive.name
    if archive_url is None:
        _download(files.archive, base, cache, settings)
    elif not _is_there(archive, files.archive):
        download(archive_url, archive, files.archive, settings)
    manifest = _download(files.manifest, base, cache, settings)
    tables = tuple((table, _download(table, base, cache, settings)) for table in files.tables)
    return LabelFiles(archive, manifest, tables, shown(archive_url or base), files.classes)


def _download(file: HashedFile, base: str, cache: Path, settings: HttpSettings) -> Path:
    """From `<base>/<path>`, or from `<base>/<name>`: mirrors flatten folders."""
    target = cache / file.name
    if _is_there(target, file):
        return target
    try:
        download(f"{base}/{file.path}", target, file, settings)
    except HttpError as error:
        if error.status != _NOT_FOUND or file.path == file.name:
            raise
        download(f"{base}/{file.name}", target, file, settings)
    return target


def _is_there(path: Path, file: HashedFile) -> bool:
    """Whether an earlier run left the right file."""
    if not path.is_file():
        return False
    try:
        verify(path, file)
    except HemsegError:
        path.unlink()
        return False
    return True


def _in_folder(folder: Path, file: HashedFile) -> Path | None:
    return next((path for path in (folder / file.path, folder / file.name) if path.is_file()), None)


def _source_json_in(folder: Path, dataset: str) -> PublishedLabels:
    path = folder / SOURCE_JSON
    if not path.is_file():
        raise HemsegError(
            f"{folder} holds no {SOURCE_JSON}, and data set {dataset} is not a published one "
            f"({', '.join(PUBLISHED)})",
            hint=f"--dataset {next(iter(PUBLISHED))}, or write {SOURCE_JSON}: sizes and hashes "
            "of archive and manifest",
        )
    return parse_source_json(path.read_text(encoding="utf-8-sig", errors="replace"), str(path))


def _source_json_at(url: str, settings: HttpSettings) -> PublishedLabels:
    return parse_source_json(
        download_small(url, settings).decode("utf-8-sig", errors="replace"), shown(url)
    )
