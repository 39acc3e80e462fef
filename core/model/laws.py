"""The laws of mixers, for the tests of whoever writes one.

Each is a function of a whole model, which raises AssertionError if the model breaks it.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from .sequence_model import SequenceModel

POSITIONS = 16  # of the sequences that the laws are tested on; the model's context, at least
SPLITS = ([POSITIONS], [1] * POSITIONS, [6, *[1] * 10], [3, 4, 9], [1, 5, 1, 9])
SELECTIONS = ([0, 0, 0, 1, 1, 1], [1, 0], [1, 1, 0], [1], [0, 1, 0, 1])


def check_mixer(name: str, **fields: Any) -> None:
    """Tests all laws on small models whose mixer is `name`, alone and with attention. fields: of
    ModelConfig. AssertionError if a law is broken."""
    for mixers in (name, f"{name},attention"):
        shape: dict[str, Any] = dict(vocab_size=29, layers=2, width=32, heads=4, context=POSITIONS)
        model = SequenceModel(ModelConfig(**{**shape, **fields, "mixers": mixers})).eval()
        torch.manual_seed(0)
        for parameter_name, parameter in model.named_parameters():  # no zeros, which hide mistakes
            nn.init.normal_(parameter, 1.0 if "norm.weight" in parameter_name else 0.0, 0.2)
        causal(model)
        segments_stand_apart(model)
        for split in SPLITS:
            steps_are_the_full_pass(model, split)
        idle_rows_keep_their_state(model)
        for rows in SELECTIONS:
            selected_rows_continue(model, rows)
        rows_can_be_assigned(model)


def some_ids(model: SequenceModel, rows: int) -> Tensor:
    """Random ids (rows, POSITIONS)."""
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, model.config.vocab_size, (rows, POSITIONS), generator=draw)


def places(model: SequenceModel, length: int = POSITIONS) -> Tensor | None:
    """(1, length, axes) positions as in a picture with rows of four pixels, each axis another; None
    for a model of one axis."""
    axes, steps = model.config.axes, torch.arange(length)
    if axes == 1:
        return None
    return torch.stack([steps // 4**axis % 4 for axis in reversed(range(axes))], dim=-1)[None]


@torch.no_grad()
def causal(model: SequenceModel) -> None:
    """No position sees a later one, and each sees all earlier ones within the receptive field."""
    ids = some_ids(model, 1)
    before = model(ids)
    for t in range(POSITIONS):
        other = ids.clone()
        other[0, t] = (other[0, t] + 1) % model.config.vocab_size
        after = model(other)
        _close(after[:, :t], before[:, :t], f"position {t} is seen by an earlier one", 0, 1e-6)
        end = t + (model.receptive_field() or POSITIONS)
        moved = (after[:, t:] - before[:, t:]).abs().amax(-1)[0]
        if not bool((moved[: end - t] > 1e-5).all()):
            raise AssertionError(f"position {t} is not seen by every later one")
        if not bool((moved[end - t :] < 1e-6).all()):
            raise AssertionError(f"position {t} is seen beyond the receptive field")


@torch.no_grad()
def segments_stand_apart(model: SequenceModel) -> None:
    """Items that share a row are computed as if each were alone."""
    lengths = (5, 7, 4)
    ids = some_ids(model, 1)
    segments = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    own = [places(model, length) for length in lengths]
    restarting = [torch.arange(length)[None, :, None] for length in lengths]
    positions = [mine if each is None else each for each, mine in zip(own, restarting, strict=True)]
    packed = model(ids, torch.cat(positions, dim=1), segments)
    at = 0
    for length, where in zip(lengths, positions, strict=True):
        here = slice(at, at + length)
        alone = model(ids[:, here], where)
        _close(packed[:, here], alone, "an item depends on another one in its row")
        if model.config.axes == 1:
            said = "positions are not 0, 1, 2 ... by default"
            _close(model(ids[:, here]), alone, said, 1.3e-6)
        at += length


@torch.no_grad()
def steps_are_the_full_pass(model: SequenceModel, split: list[int]) -> None:
    """A sequence in steps of `split` positions gives what one pass gives."""
    ids, positions = some_ids(model, 2), places(model)
    full = model(ids, positions)
    state = model.start(2, POSITIONS)
    parts = []
    for end, length in zip(accumulate(split), split, strict=True):
        here = slice(end - length, end)
        where = None if positions is None else positions[:, here]
        parts.append(model.step(ids[:, here], state, where))
    if state.at != POSITIONS:
        raise AssertionError(f"after {POSITIONS} positions the state is at {state.at}")
    _close(torch.cat(parts, dim=1), full, f"steps of {split} differ from forward")


@torch.no_grad()
def idle_rows_keep_their_state(model: SequenceModel) -> None:
    """Rows at different positions take 0 to 3 ids a step; each computes what it does alone."""
    axes = model.config.axes
    ids, positions = some_ids(model, 3), places(model)
    full = model(ids, positions)
    state = model.start(3, POSITIONS)
    state.at = torch.zeros(3, dtype=torch.int64)
    taken, found = [0, 0, 0], [list[Tensor](), list[Tensor](), list[Tensor]()]
    for lengths in [(3, 1, 0), (0, 2, 1), (2, 0, 3), (1, 1, 1), (3, 3, 0), (0, 0, 2)]:
        new = torch.full((3, 3), model.config.vocab_size - 1)
        here = torch.zeros(3, 3, axes, dtype=torch.int64)
        for row, count in enumerate(lengths):
            new[row, :count] = ids[row, taken[row] : taken[row] + count]
            if positions is not None:
                here[row, :count] = positions[0, taken[row] : taken[row] + count]
        where = None if positions is None else here
        hidden = model.step(new, state, where, torch.tensor(lengths))
        for row, count in enumerate(lengths):
            found[row].append(hidden[row, :count])
            taken[row] += count
        if not torch.equal(torch.as_tensor(state.at), torch.tensor(taken)):
            raise AssertionError(f"rows that took {taken} ids are at {state.at}")
    for row, parts in enumerate(found):
        said = f"row {row}, which takes 0 to 3 ids a step, differs from forward"
        _close(torch.cat(parts), full[row, : taken[row]], said)


@torch.no_grad()
def selected_rows_continue(model: SequenceModel, rows: list[int]) -> None:
    """Forks of a prompt (which share its cache), beams, removed rows; then a second selection."""
    ids, positions = some_ids(model, 2), places(model)

    def where(start: int, end: int) -> Tensor | None:
        return None if positions is None else positions[:, start:end]

    full = model(ids, positions)
    state = model.start(2, POSITIONS)
    model.step(ids[:, :5], state, where(0, 5))
    state, chosen = state.select(torch.tensor(rows)), torch.tensor(rows)
    for t in range(5, 9):
        hidden = model.step(ids[chosen, t : t + 1], state, where(t, t + 1))
        _close(hidden, full[chosen, t : t + 1], f"rows {rows} of a cache differ from forward")
    again = torch.tensor([len(rows) - 1, 0])
    state, chosen = state.select(again), chosen[again]
    hidden = model.step(ids[chosen, 9:10], state, where(9, 10))
    _close(hidden, full[chosen, 9:10], f"rows of rows {rows} of a cache differ from forward")


@torch.no_grad()
def rows_can_be_assigned(model: SequenceModel) -> None:
    """A row of a cache can become that of another prompt, at a position of its own."""
    ids, positions = some_ids(model, 3), places(model)
    full = model(ids, positions)
    state = model.start(2, POSITIONS)
    state.at = torch.zeros(2, dtype=torch.int64)
    lengths = [6, 3]
    for row, source in enumerate((2, 1)):
        one = model.start(1, lengths[row])
        part = None if positions is None else positions[:, : lengths[row]]
        model.step(ids[source : source + 1, : lengths[row]], one, part)
        state.assign(row, one)
    new = torch.stack([ids[2, 6:7], ids[1, 3:4]])
    here = None if positions is None else positions[0, lengths][:, None]
    hidden = model.step(new, state, here)
    _close(hidden[0, 0], full[2, 6], "an assigned row differs from forward")
    _close(hidden[1, 0], full[1, 3], "an assigned row differs from forward")


def _close(
    found: Tensor, expected: Tensor, broken: str, relative: float = 1e-5, absolute: float = 1e-5
) -> None:
    torch.testing.assert_close(
        found, expected, rtol=relative, atol=absolute, msg=lambda how: f"{broken}: {how}"
    )
