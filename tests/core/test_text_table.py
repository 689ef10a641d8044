"""Tables on terminals of any width: no word of a result is lost, and it stays readable."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hemseg_cli.core.text_table import Table, draw_table

METRICS = Table(
    "scores",
    ["metric", "mean", "definition"],
    [["Dice", "0.84", "twice the overlap " * 5], ["HD95 (mm)", "6.85", "a distance " * 9]],
    caption="Of 8 scans.",
    explains=frozenset({"definition"}),
)
STRATA = Table(
    "strata",
    ["stratum", "scans", "Dice", "IoU", "HD95 (mm)"],
    [
        [f"volume {n} mL", str(n), f"0.8{n} [0.5, 1.0]", f"0.7{n} [0.4, 1.0]", f"7.{n} [1, 9]"]
        for n in range(3)
    ],
    n_named=2,
)


def drawn(table: Table, width: int) -> list[str]:
    text = io.StringIO()
    draw_table(Console(file=text, width=width), table)
    return [line.rstrip() for line in text.getvalue().splitlines() if line.strip(" ─")]


def test_wide_terminal_has_every_column_in_one_line() -> None:
    lines = drawn(METRICS, 200)

    assert lines[0] == "scores"
    assert lines[1].split() == ["metric", "mean", "definition"]
    assert lines[2].split()[:3] == ["Dice", "0.84", "twice"]
    assert lines[-1] == "Of 8 scans."
    assert len(lines) == 5


def test_narrow_terminal_leaves_out_what_only_explains_and_says_so() -> None:
    lines = drawn(METRICS, 60)

    assert lines[0] == "scores"
    assert [line.split() for line in lines[1:4]] == [
        ["metric", "mean"],
        ["Dice", "0.84"],
        ["HD95", "(mm)", "6.85"],
    ]
    assert " ".join(lines[4:]) == (
        "Of 8 scans. Not shown for want of width: definition (--json has all)."
    )


def test_columns_go_below_each_other_beside_the_names_of_their_rows() -> None:
    lines = drawn(STRATA, 48)

    assert lines[0] == "strata"
    heads = [line.split("   ") for line in lines if line.lstrip().startswith("stratum")]
    assert [head[-1].strip() for head in heads] == ["Dice", "IoU", "HD95 (mm)"]
    assert sum(line.lstrip().startswith("volume 1 mL") for line in lines) == len(heads)


def test_as_many_columns_as_fit_stand_side_by_side() -> None:
    heads = [line.split() for line in drawn(STRATA, 62) if line.lstrip().startswith("stratum")]

    assert heads == [["stratum", "scans", "Dice", "IoU"], ["stratum", "scans", "HD95", "(mm)"]]


@given(
    width=st.integers(10, 160),
    n_named=st.integers(0, 3),
    cells=st.integers(1, 5).flatmap(
        lambda columns: st.lists(
            st.lists(
                st.text(st.sampled_from("abc /[].0"), min_size=1, max_size=30),
                min_size=columns,
                max_size=columns,
            ),
            min_size=1,
            max_size=4,
        )
    ),
)
def test_every_word_is_shown_whole_at_any_width(
    width: int, n_named: int, cells: list[list[str]]
) -> None:
    columns = [f"c{n}" for n in range(len(cells[0]))]
    lines = drawn(Table("", columns, cells, n_named=min(n_named, len(columns))), width)

    words = {word for line in lines for word in line.split()}
    assert words >= {word for row in cells for cell in row for word in cell.split()}
