"""A picture next to its patches, in characters, for `tfm data`."""

from __future__ import annotations

from ...core.protocols import Sequence
from ...tokenizers.patches import PatchTokenizer
from .display import terminal_picture

BETWEEN = "   "  # the picture and its patches


def patch_grid(sequence: Sequence, tokenizer: PatchTokenizer, width: int) -> str:
    """The decoded picture and, where there is room, the same with lines between its patches; then
    what an id is."""
    side, levels = sequence.side, tokenizer.form.levels
    pixels = tokenizer.decode(sequence.ids, side).pixels
    rows, columns = tokenizer.grid(int(side["height"]), int(side["width"]))
    (height, across), each = tokenizer.patch, tokenizer.per_patch
    lines = terminal_picture([pixels], levels, width).split("\n")
    cut = _cut(lines, pixels.shape[0], pixels.shape[1], tokenizer.patch)
    if cut and max(map(len, lines)) + len(BETWEEN) + max(map(len, cut)) <= width:
        wide = max(map(len, lines))
        lines += [""] * (len(cut) - len(lines))
        lines = [f"{a:<{wide}}{BETWEEN}{b}".rstrip() for a, b in zip(lines, cut, strict=True)]
    ids = "one id each" if each == 1 else f"{each} ids each"
    about = f"{rows} x {columns} patches of {height} x {across} pixels, {ids}, {levels} levels"
    return "\n".join([*lines, about])


def _cut(lines: list[str], height: int, width: int, patch: tuple[int, int]) -> list[str]:
    """The lines of a picture, of two characters a pixel or of two pixels a character, with lines
    between its patches. None of a picture of another scale, or of patches of a pixel."""
    down, across = patch
    if len(lines) == height:
        across *= 2
        width *= 2
    elif 2 * len(lines) in (height, height + 1) and down % 2 == 0:
        down //= 2
    else:
        return []
    if patch == (1, 1) or max(map(len, lines)) > width:
        return []
    found = []
    for number, line in enumerate(lines):
        if number and number % down == 0:
            found.append("┼".join("─" * len(p) for p in _pieces(line.ljust(width), across)))
        found.append("│".join(_pieces(line.ljust(width), across)))
    return found


def _pieces(line: str, size: int) -> list[str]:
    return [line[at : at + size] for at in range(0, len(line), size)]
