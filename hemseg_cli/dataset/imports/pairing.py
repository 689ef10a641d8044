"""Join image files and label files by name."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hemseg_cli.imaging.file_names import image_name, label_name, stem

RULE = (
    "joined by name: the same, or the label's with _mask, _seg, _label, _gt (or - for _) and the "
    "image's with _0000, _ct, _image behind it"
)


@dataclass(frozen=True)
class Pairs:
    """Images with their labels by shared name, and the files that have no partner, with reasons."""

    pairs: tuple[tuple[str, Path, Path], ...]
    left_out: dict[str, str]


def join_by_name(images: Sequence[Path], labels: Sequence[Path]) -> Pairs:
    """Join by full name first, then by the name without endings.

    Two files that would both be the partner of one are left out, both named.
    """
    left_out: dict[str, str] = {}
    by_image = _grouped(images, image_name)
    by_label = _grouped(labels, label_name)

    # `x_label.nii.gz` beside images `x` and `x_label`: the same name goes before the shorter one.
    same = {stem(path.name): path for path in labels}
    pairs = []
    used: set[Path] = set()
    for image in images:
        partner = same.get(stem(image.name))
        if partner is not None and partner not in used:
            pairs.append((image_name(image.name), image, partner))
            used.update((image, partner))

    for name, group in by_image.items():
        rest = [path for path in group if path not in used]
        partners = [path for path in by_label.get(name, []) if path not in used]
        if len(rest) == 1 and len(partners) == 1:
            pairs.append((name, rest[0], partners[0]))
        elif len(rest) > 1 or len(partners) > 1:
            names = ", ".join(path.name for path in (*rest, *partners)[:4])
            for path in (*rest, *partners):
                left_out[str(path)] = f"more than one file for {name}: {names}"
        else:
            left_out.update({str(path): "no label" for path in rest})
        used.update(rest, partners)

    left_out.update({str(path): "a label without an image" for path in labels if path not in used})
    return Pairs(tuple(sorted(pairs, key=lambda pair: (pair[0], str(pair[1])))), left_out)


def _grouped(paths: Sequence[Path], name_of: Callable[[str], str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[name_of(path.name)].append(path)
    return groups
