"""What commands write with characters: tokens with their boundaries, dots, scores of baselines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from unicodedata import combining, east_asian_width

BOUNDARY = "│"  # between two tokens, where there are no colours
BACKGROUNDS = ("\x1b[48;5;24;97m", "\x1b[48;5;130;97m")  # of every second token: blue, brown
RESET = "\x1b[0m"
LINES = 8  # of tokens, at most
# the bits of the dots of a Braille character, U+2800 + bits: top down, left and right
BRAILLE_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
MARKS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


def visible(text: str) -> str:
    """One line of printable characters: line ends and tabs as signs, other control characters as
    \\xNN."""
    return "".join(
        MARKS.get(c) or (c if c.isprintable() or c == " " else f"\\x{ord(c):02x}") for c in text
    )


def columns_of(text: str) -> int:
    """The number of terminal columns of printable text."""
    wide = sum(east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(combining(c) > 0 for c in text)


def marked(labels: Iterable[str], width: int, colour: bool, lines: int = LINES) -> str:
    """Labels of tokens with a boundary between any two, in at most `lines` lines of at most `width`
    columns: alternating background colours, or else BOUNDARY. The tokens that do not fit are
    counted."""
    rows: list[list[str]] = [[]]
    used = shown = 0
    labels = list(labels)
    for number, label in enumerate(labels):
        text = visible(label)
        if columns_of(text) > width - 1:
            text = text[: max(1, (width - 1) // 2)] + "…"
        size = columns_of(text) + (0 if colour else 1)
        if rows[-1] and used + size > width:
            if len(rows) == lines:
                break
            rows.append([])
            used = 0
        rows[-1].append(f"{BACKGROUNDS[number % 2]}{text}{RESET}" if colour else text + BOUNDARY)
        used, shown = used + size, shown + 1
    text = "\n".join("".join(row) for row in rows)
    left = len(labels) - shown
    return text + (f"\n… and {left:,} more tokens" if left else "")


def baselines_line(floor: Mapping[str, float], headline: Sequence[str]) -> str:
    """The scores of baselines by name; of several metrics, those of the first of `headline`."""
    end = f"_{headline[0]}" if headline else ""
    named = {name.removesuffix(end): x for name, x in floor.items() if name.endswith(end)}
    values = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
    return f"{headline[0]} {values}" if headline else values
