"""Draw what was found in a scan on one page: the preview, and the measures as a table.

Nothing on it says who the patient is: neither the scan's name nor a path.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hemseg_cli.core.quantities import VOLUME_CONFIDENCE
from hemseg_cli.imaging.dicom.derived import label_of, software
from hemseg_cli.inference.calibration import Interval
from hemseg_cli.inference.formats import CaseOutput
from hemseg_cli.inference.lesions import Lesion, mean_hu
from hemseg_cli.inference.measures import interval_ml, interval_text
from hemseg_cli.inference.preview import draw_preview, font

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

TITLE = "Hemorrhage on head CT: research use only"

# A4 at 150 dots an inch.
_WIDTH, _HEIGHT = 1240, 1754
_MARGIN = 70
_LINE = 34
_FOOT_LINES = 2
_COLUMNS = (0, 400, 545, 760, 890, 1010)  # where the columns of the table begin, from the margin
_HEADINGS = (
    "",
    "volume, mL",
    f"{VOLUME_CONFIDENCE:.0%} interval",
    "ABC/2, mL",
    "mean HU",
    "lesions",
)
_INK, _FAINT = (20, 20, 20), (110, 110, 110)


def draw_page(output: CaseOutput) -> "Image":
    """Return the page, RGB, A4 upright at 150 dots an inch."""
    from PIL import Image, ImageDraw

    page = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN), TITLE, fill=_INK, font=font(30))

    # The preview over the whole width, without the scan's name in its header.
    picture = draw_preview(
        output.scan.volume,
        output.mask,
        replace(output.measured.row, scan=""),
        classes=output.classes,
    )
    width = _WIDTH - 2 * _MARGIN
    height = round(picture.height * width / picture.width)
    page.paste(picture.resize((width, height)), (_MARGIN, _MARGIN + 60))

    y = _MARGIN + 60 + height + 30
    room = (_HEIGHT - _MARGIN - (_FOOT_LINES + 1) * _LINE - y) // _LINE
    for cells in page_table(output, room):
        _write_row(draw, y, cells)
        y += _LINE
    _write_foot(draw, output)
    return page


def page_table(output: CaseOutput, room: int) -> list[tuple[str, ...]]:
    """The rows of the page, `room` at most: all together, each class, and the largest lesions."""
    row = output.measured.row
    rows: list[tuple[str, ...]] = [_HEADINGS]
    by_class = output.measured.by_class or {output.classes[0].key: output.measured.lesions}
    names = {each.key: label_of(each, output.classes) for each in output.classes}
    if output.measured.by_class:
        rows.append(_whole_row("All hemorrhage", output.measured.lesions, interval_ml(row)))

    # Of many classes those that were found: sorting keeps the order of the others.
    found_first = sorted(by_class.items(), key=lambda one: not one[1])
    shown = found_first[: room - len(rows) - 2]
    rows += [_whole_row(names[key], lesions, interval_ml(row, key)) for key, lesions in shown]
    if len(shown) < len(found_first):
        rows.append((f"and {len(found_first) - len(shown)} more classes", "", "", "", "", ""))

    lesions = [
        (f"{names[key]}, lesion {number}", lesion)
        for key, found in by_class.items()
        for number, lesion in enumerate(found, start=1)
    ]
    most = max(0, room - len(rows) - 1)
    largest = sorted(lesions, key=lambda one: -one[1].volume_ml)[:most]
    rows += [
        (name, f"{one.volume_ml:.2f}", "", f"{one.abc2_ml:.2f}", f"{one.mean_hu:.0f}", "")
        for name, one in largest
    ]
    if len(lesions) > len(largest):
        rows.append((f"and {len(lesions) - len(largest)} smaller lesions", "", "", "", "", ""))
    return rows


def _whole_row(name: str, lesions: Sequence[Lesion], interval: Interval | None) -> tuple[str, ...]:
    volume_ml = sum(one.volume_ml for one in lesions)
    abc2_ml = sum(one.abc2_ml for one in lesions)
    hu = mean_hu(lesions)
    density = "-" if hu is None else f"{hu:.0f}"
    bounds = interval_text(*(interval or (None, None)))
    return (name, f"{volume_ml:.2f}", bounds, f"{abc2_ml:.2f}", density, str(len(lesions)))


def _write_row(draw: "ImageDraw", y: int, cells: Sequence[str]) -> None:
    for x, text in zip(_COLUMNS, cells, strict=True):
        draw.text((_MARGIN + x, y), text, fill=_INK, font=font(22))


def _write_foot(draw: "ImageDraw", output: CaseOutput) -> None:
    """Say what made the page, and what it is not for."""
    algorithm = output.algorithm
    lines = (
        f"{software(algorithm)}, version {algorithm.version}, "
        f"model and settings {algorithm.settings_hash}",
        "ABC/2 as Kothari et al., Stroke 1996;27:1304. Not a medical device.",
    )
    for number, line in enumerate(lines):
        y = _HEIGHT - _MARGIN - (len(lines) - number) * _LINE
        draw.text((_MARGIN, y), line, fill=_FAINT, font=font(20))
