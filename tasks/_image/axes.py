"""Which axis of an array is which: one rule for all arrays of a data set.

An array of 3 x 8 x 8 may be one picture in colour or three grey ones. One array alone does not
tell, so the rule is chosen from the shapes of all of them, and said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...core.errors import DataError
from .arrays import Array, Stack

CHANNELS = (1, 3, 4)


def arranged(stacks: Sequence[Stack], single: Sequence[bool]) -> tuple[list[Array], str]:
    """Every stack as (N, height, width, channels), and what was chosen where the shapes leave a
    choice. single: the stack holds one picture, as a cell of a table does. DataError for a shape
    that no picture has."""
    ambiguous = [
        s for s, one in zip(stacks, single, strict=True) if not one and _may_be_one_picture(s)
    ]
    shapes = [s.array.shape for s in ambiguous]
    unsure = set(map(id, ambiguous))
    one_each = len(shapes) > 1 and any(
        all(shape[axis] in CHANNELS for shape in shapes) for axis in (0, 2)
    )
    stacked: list[Array] = []
    said: list[str] = []
    for stack, one in zip(stacks, single, strict=True):
        array = stack.array
        if array.ndim == 2 and stack.labels is None:
            if not one and math.isqrt(array.shape[1]) ** 2 == array.shape[1]:
                said.append(f"{stack.name} taken as one picture, not as {len(array):,} flat ones")
            array = array[None]
        elif array.ndim == 3 and (one or (id(stack) in unsure and (one_each or _channels(array)))):
            array = array[None]
        stacked.append(array)
    if ambiguous and not one_each:
        name, shape = ambiguous[0].name, shapes[0]
        many = f"{shape[0]:,} grey pictures" if not _channels(ambiguous[0].array) else "one picture"
        said.append(f"{name} of {' x '.join(map(str, shape))} taken as {many}")
    first = _channels_first([(s.name, a) for s, a in zip(stacks, stacked, strict=True)])
    if first:
        said.append("channels before height and width")
        stacked = [a.transpose(0, 2, 3, 1) if a.ndim == 4 else a for a in stacked]
    return [a[..., None] if a.ndim == 3 else a for a in stacked], ", ".join(said)


def _may_be_one_picture(stack: Stack) -> bool:
    array = stack.array
    plain = array.ndim == 3 and stack.labels is None and not stack.part
    return plain and bool({*CHANNELS} & {*array.shape[::2]})


def _channels(array: Array) -> bool:
    """Whether (height, width, 3 or 4) is likelier than a stack: width and channels differ."""
    return array.shape[2] in (3, 4) and array.shape[1] != array.shape[2]


def _channels_first(arrays: list[tuple[str, Array]]) -> bool:
    """Whether the channels of all arrays of 4 axes are in axis 1, not in axis 3. DataError if some
    have them there, others here, or an array has them nowhere."""
    last = first = ""  # an array that has its channels there only
    for name, array in arrays:
        shape = array.shape[1:]
        here, there = (
            array.ndim == 4 and shape[2] in CHANNELS,
            array.ndim == 4 and (shape[0] in CHANNELS),
        )
        if array.ndim not in (3, 4) or (array.ndim == 4 and not (here or there)):
            text = " x ".join(map(str, array.shape))
            raise DataError(
                f"--data {name}: an array of {text} is no picture (N x H x W [x 1, 3 or 4])"
            )
        if here and not there:
            last = last or name
        if there and not here:
            first = first or name
    if first and last:
        raise DataError(
            f"--data: channels come first in {first} and last in {last}; give them one order"
        )
    return bool(first)
