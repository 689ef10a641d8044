"""Show text from files, servers and file systems on a terminal without what it could do there."""


def printable(text: str) -> str:
    r"""Return the text with control characters and surrogates written as text (`\x1b`).

    Line breaks and tabs stay. A name with a terminal's escape sequence could else clear the screen
    or set its title, and a file name that is not UTF-8 could not be encoded.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in "\n\t" else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    # Spaces other than the common one (thin, no-break) count as not printable; they do no harm.
    if character.isspace() and ord(character) > 0x9F and character not in "\u2028\u2029":
        return character
    # A byte that is not UTF-8 comes from the file system as the surrogate 0xDC00 + byte.
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
