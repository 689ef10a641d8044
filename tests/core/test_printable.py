"""Text of strangers as a terminal shows it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Müller\u00a0x", "Müller\u00a0x"),
        ("two\nlines\t", "two\nlines\t"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("a\rb", "a\\rb"),
        ("scan\udce9", "scan\\xe9"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
    ],
)
def test_what_would_steer_a_terminal_is_shown_as_text(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_printable_text_can_be_encoded_and_holds_no_control_characters(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert all(character.isprintable() or character.isspace() for character in shown)
    assert not any(character < " " and character not in "\n\t" for character in shown)


def test_an_error_says_nothing_to_a_terminal() -> None:
    error = HemsegError("no setting \x1b[2J", hint="rm 'a\x07b'")
    assert str(error) == "no setting \\x1b[2J\n  rm 'a\\x07b'"
