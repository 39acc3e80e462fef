"""How the pictures of a data set are read: one rule for all, chosen from all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...core.errors import DataError
from ...tokenizers.patches import Form
from .arrays import Array
from .reader import Found, Look, stored
from .values import EIGHT_BITS, TWO_LEVELS, Range, Values, choose_range, parse_range, see


@dataclass(frozen=True)
class Meaning:
    """`ranges`: of each kind of picture (`Look.kind`). grey: pictures stored in colour are all
    grey. said: what was chosen, for people."""

    ranges: dict[str, Range]
    grey: bool = False
    said: tuple[str, ...] = ()
    fixed: bool = False  # the range is that of `--range`

    def stored(self) -> tuple[float, float] | None:
        """The numbers, lowest and highest, that arrays or files of more than 8 bits store."""
        found = self.ranges.get("numbers") or self.ranges.get("wide")
        return (found.low, found.high) if found else None

    def like(self, form: Form) -> Meaning:
        """The same, for the form of an existing run: numbers within the run's range mean what they
        mean there. Masks of 0 and 1, fractions up to 1 in a run of larger numbers, numbers outside
        its range, and a range that was set keep their own."""
        if form.range is None or self.fixed:
            return self
        low, high = form.range
        ranges = dict(self.ranges)
        for kind in ("numbers", "wide"):
            own = ranges.get(kind)
            if own is None or own.depth == 2 or (own.high <= 1) != (high <= 1):
                continue
            if low <= own.low and own.high <= high:
                ranges[kind] = Range(low, high, form.depth)
        return replace(self, ranges=ranges)


def survey(
    found: Sequence[Found],
    looks: Sequence[Look],
    numbers: Values | None,
    range_option: str | None,
    skip_bad: bool = False,
) -> Meaning:
    """The meaning of the values of all pictures. numbers: the values of all arrays; range_option:
    of `--range`, for arrays and files of more than 8 bits. DataError if values are in no usual
    range."""
    given = parse_range(range_option) if range_option else None
    kinds = {seen.kind for seen in looks}
    ranges = {"bytes": EIGHT_BITS, "bool": TWO_LEVELS}
    said: list[str] = []
    wide = [each for each, seen in zip(found, looks, strict=True) if seen.kind == "wide"]
    seen_values = {
        "numbers": numbers if "numbers" in kinds else None,
        "wide": see((each.name, pixels) for each, pixels in _stored(wide, skip_bad)),
    }
    for kind, values in seen_values.items():
        if values is None:
            continue
        if given is None:
            ranges[kind], why = choose_range(values, alone=kinds == {"numbers"})
            if ranges[kind].depth == 2 or not values.whole or values.high > 255:
                said.append(why)
        else:
            whole_01 = values.whole and (given.low, given.high) == (0, 1)
            ranges[kind] = TWO_LEVELS if whole_01 else given
            said.append(f"values {values} taken as {given.low:g} to {given.high:g}")
    if kinds == {"bytes"} and _are_masks(found, looks, skip_bad):
        ranges["bytes"] = TWO_LEVELS
        said.append("masks of 0 and 1")
    grey = any(seen.colour for seen in looks) and _are_grey(found, looks, skip_bad)
    if grey:
        said.append("grey, stored in colour")
    return Meaning(ranges, grey, tuple(said), given is not None)


def _stored(found: Sequence[Found], skip_bad: bool) -> Iterator[tuple[Found, Array]]:
    """The numbers of each picture, those that cannot be decoded left out with `skip_bad`."""
    for each in found:
        try:
            yield each, stored(each)
        except DataError:
            if not skip_bad:
                raise


def _are_masks(found: Sequence[Found], looks: Sequence[Look], skip_bad: bool) -> bool:
    """Whether all pictures are grey with no values but 0 and 1, and some have both."""
    if {seen.mode for seen in looks} not in ({"L"}, {"L", "1"}):
        return False
    both = False
    for _, pixels in _stored(found, skip_bad):  # the first ordinary picture ends the search
        if pixels.max(initial=0) > 1:
            return False
        both = both or bool(pixels.max(initial=0) != pixels.min(initial=1))
    return both


def _are_grey(found: Sequence[Found], looks: Sequence[Look], skip_bad: bool) -> bool:
    """Whether all pictures in colour have equal channels."""
    coloured = [(each, seen) for each, seen in zip(found, looks, strict=True) if seen.colour]
    if any(seen.mode not in ("RGB", "array") for _, seen in coloured):
        return False
    return all(  # the first colourful picture ends the search
        pixels.shape[2] == 3 and bool((pixels == pixels[..., :1]).all())
        for _, pixels in _stored([each for each, _ in coloured], skip_bad)
    )
