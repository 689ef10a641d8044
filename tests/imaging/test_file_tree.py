"""Folder trees with links, loops and odd entries: each entry is a file or named with a reason."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemseg_cli.imaging.file_tree import walk_files

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.nii").write_text("a")
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "tree" / "deep" / "up").symlink_to(tmp_path / "tree")
    found = walk_files(tmp_path / "tree")
    assert found.files == (tmp_path / "tree" / "link" / "a.nii",)
    assert found.left_out == {
        tmp_path / "tree" / "deep" / "up": "a link to a folder that is read already"
    }


def test_a_folder_keeps_its_own_name_beside_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.nii").write_text("x")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    assert walk_files(tmp_path).files == (tmp_path / "b" / "x.nii",)


def test_two_names_of_one_content_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("x")
    (tmp_path / "one.nii").symlink_to("blob")
    (tmp_path / "two.nii").symlink_to("blob")
    os.link(tmp_path / "blob", tmp_path / "three.nii")
    assert [path.name for path in walk_files(tmp_path).files] == [
        "blob",
        "one.nii",
        "three.nii",
        "two.nii",
    ]


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_text("")
    (tmp_path / ".git").mkdir()
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    found = walk_files(tmp_path)
    assert found.files == ()
    assert {path.name: reason.split(" (")[0] for path, reason in found.left_out.items()} == {
        ".git": "hidden",
        ".hidden": "hidden",
        "broken": "a link that leads nowhere",
        "pipe": "a pipe",
        "self": "a link that leads nowhere",
        "zero": "a device or socket, no regular file",
    }


def test_names_that_are_not_utf_8_are_files_like_others(tmp_path: Path) -> None:
    name = os.fsdecode(b"kopf\xe4.nii")
    (tmp_path / name).write_text("x")
    assert walk_files(tmp_path).files == (tmp_path / name,)


names = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/\0"),
    min_size=1,
    max_size=8,
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 60)
kinds = st.sampled_from(["file", "folder", "link", "loop", "broken"])


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(names, st.tuples(kinds, names), max_size=10))
def test_every_entry_is_taken_or_named(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, tuple[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    target = tmp_path_factory.mktemp("target")
    (target / "inside").write_text("x")
    given_entries = []
    for name, (kind, inner) in entries.items():
        path = root / name
        given_entries.append(path)
        if kind == "file":
            path.write_text("x")
        elif kind == "folder":
            path.mkdir()
            (path / inner).write_text("x")
        else:
            path.symlink_to({"link": target, "loop": root, "broken": root / "no such"}[kind])
    found = walk_files(root)
    for path in given_entries:
        inside = [file for file in found.files if file == path or path in file.parents]
        reasons = [entry for entry in found.left_out if entry == path or path in entry.parents]
        assert len(inside) + len(reasons) == 1, path
