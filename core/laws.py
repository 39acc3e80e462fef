"""The laws of tokenizers, for the tests of whoever writes one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from .protocols import Ids, Sequence, Tokenizer


def check_tokenizer(tokenizer: Tokenizer, items: Iterable[Any]) -> None:
    """Encodes and decodes every item. AssertionError names the law that is broken and the item.

    Of every item: ids are in the vocabulary and begin with the begin token, which is given; every
    id that is predicted is legal; positions have as many coordinates as the tokenizer has axes;
    what is legal and where ids are does not depend on the ids after them; side information is JSON;
    decoding gives the item, of a lossy tokenizer one that has the same ids.
    Of the tokenizer: its state is JSON and arrays, of which the same tokenizer can be made again.
    """
    state, arrays = tokenizer.state()
    again = type(tokenizer).from_state(json.loads(json.dumps(state)), arrays)
    _law(_facts(again) == _facts(tokenizer), f"from_state(state()) has {_facts(again)}", tokenizer)
    _law(_equal(again.state(), (state, arrays)), "from_state(state()) has another state", tokenizer)
    for low, high in tokenizer.ordered:
        _law(0 <= low < high <= tokenizer.vocab_size, "ordered is beyond the vocabulary", tokenizer)
    for item in items:
        sequence = tokenizer.encode(item)
        _check_ids(tokenizer, item, sequence)
        _check_places(tokenizer, item, sequence)
        _law(_equal(again.encode(item), sequence), "from_state(state()) encodes otherwise", item)
        decoded = tokenizer.decode(sequence.ids, sequence.side)
        if tokenizer.lossless:
            _law(_equal(decoded, item), f"decode gives {decoded!r}", item)
        ids = tokenizer.encode(decoded, sequence).ids
        _law(_equal(ids, sequence.ids), "what decode gives has other ids", item)


def _facts(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "vocab_size": tokenizer.vocab_size,
        "axes": tokenizer.axes,
        "features": tokenizer.features,
        "lossless": tokenizer.lossless,
        "begin": tokenizer.begin,
        "ordered": tuple(tokenizer.ordered),
    }


def _check_ids(tokenizer: Tokenizer, item: Any, sequence: Sequence) -> None:
    ids, given = sequence.ids, sequence.given
    _law(ids.dtype == np.int64 and ids.ndim == 1, f"ids are {ids.dtype} {ids.shape}", item)
    in_range = ((ids >= 0) & (ids < tokenizer.vocab_size)).all()
    _law(bool(in_range), f"ids are not all 0 to {tokenizer.vocab_size - 1}", item)
    _law(1 <= given <= len(ids), f"given is {given} of {len(ids)} ids", item)
    weight = sequence.target_weight()
    _law(weight.shape == ids.shape, f"weight has the shape {weight.shape}", item)
    _law(bool((weight >= 0).all()), "weight is negative", item)
    side = sequence.side
    _law(_equal(json.loads(json.dumps(side)), side), f"side information is no JSON: {side}", item)
    begin = ids == tokenizer.begin
    if not tokenizer.ordered:  # there the first id can tell more than that an item begins
        _law(bool(begin[0]), f"the first id is {ids[0]}, not the begin token", item)
    _law(not begin[given:].any(), "the begin token is predicted", item)


def _check_places(tokenizer: Tokenizer, item: Any, sequence: Sequence) -> None:
    """What is legal, and where the ids are."""
    length, side = len(sequence), sequence.side
    low, high = _legal(tokenizer, length, sequence).T
    right = (low <= sequence.ids) & (sequence.ids < high)
    wrong = np.flatnonzero(~right & (sequence.target_weight() > 0))
    _law(not len(wrong), f"its ids at {wrong[:9].tolist()} are not legal", item)
    positions = tokenizer.positions(length, side)
    if positions is not None:
        shape = (length, tokenizer.axes)
        _law(positions.shape == shape, f"positions are {positions.shape}, not {shape}", item)
        _law(bool((positions >= 0).all()), "a position is negative", item)
    for shorter in (1, length // 2, length - 1):
        if shorter < 1:
            continue
        early = tokenizer.positions(shorter, side)
        same = early is positions or (
            early is not None and positions is not None and _equal(early, positions[:shorter])
        )
        _law(same, f"its first {shorter} positions depend on the length", item)
        same = _equal(_legal(tokenizer, shorter, sequence), np.stack((low, high), 1)[:shorter])
        _law(same, f"the support of its first {shorter} ids depends on the length", item)


def _legal(tokenizer: Tokenizer, length: int, sequence: Sequence) -> Ids:
    """(length, 2) the support of every position."""
    legal = tokenizer.support(length, sequence.side)
    everything = (0, tokenizer.vocab_size) if legal is None else legal
    return np.broadcast_to(np.array(everything, np.int64), (length, 2))


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are equal: arrays in all values, dataclasses in all fields."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.shape(one) == np.shape(other) and bool((one == other).all())
    if is_dataclass(one) and type(one) is type(other):
        return all(_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _law(holds: bool, broken: str, item: Any) -> None:
    if not holds:
        raise AssertionError(f"{broken}: {item!r}")
