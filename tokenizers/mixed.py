"""Several tokenizers in one vocabulary: the ids of each come after those of the one before it.

Ids never meet: a sequence belongs to one part, which its side information names. Its begin token,
an id of the part's own, tells the model which part it is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import protocols
from ..core.errors import ConfigError
from ..core.plugins import find, name_of
from ..core.protocols import Ids, Sequence, Support


class MixedTokenizer(protocols.Tokenizer):
    """parts: their tokenizers by name, in the order of their ids. Sequences have `part`, a name, in
    their side information."""

    def __init__(self, parts: Mapping[str, protocols.Tokenizer]) -> None:
        self.parts = dict(parts)
        self.offsets: dict[str, int] = {}
        self.vocab_size = 0
        ordered: list[tuple[int, int]] = []
        for name, tokenizer in self.parts.items():
            if tokenizer.features:
                raise ConfigError(f"--mix {name}: covariates of series are not for a mix")
            first = self.offsets[name] = self.vocab_size
            ordered += [(first + low, first + high) for low, high in tokenizer.ordered]
            self.vocab_size += tokenizer.vocab_size
        self.ordered = tuple(ordered)
        self.axes = max(tokenizer.axes for tokenizer in self.parts.values())
        self.lossless = all(tokenizer.lossless for tokenizer in self.parts.values())
        self.begin = next(iter(self.parts.values())).begin

    def ids_of(self, part: str) -> tuple[int, int]:
        """The half-open range of the ids of a part."""
        low = self.offsets[part]
        return low, low + self.parts[part].vocab_size

    def into(self, sequence: Sequence, part: str) -> Sequence:
        """A sequence of a part in the ids of all."""
        ids = sequence.ids + self.offsets[part]
        return replace(sequence, ids=ids, side={**sequence.side, "part": part})

    def out_of(self, sequence: Sequence) -> Sequence:
        """A sequence in the ids of its own part."""
        side = dict(sequence.side)
        return replace(sequence, ids=sequence.ids - self.offsets[side.pop("part")], side=side)

    # -- as a tokenizer ------------------------------------------------------------------------

    def encode(self, item: Any, like: Sequence | None = None) -> Sequence:
        """item: (part, its item)."""
        part, own = item
        within = None if like is None else self.out_of(like)
        return self.into(self.parts[part].encode(own, within), part)

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> Any:
        part = side["part"]
        return part, self.parts[part].decode(ids - self.offsets[part], side)

    def support(self, length: int, side: Mapping[str, Any]) -> Support:
        low, high = self.ids_of(side["part"])
        legal = self.parts[side["part"]].support(length, side)
        if legal is None:
            return low, high
        return (low + legal[0], low + legal[1]) if isinstance(legal, tuple) else legal + low

    def positions(self, length: int, side: Mapping[str, Any]) -> Ids | None:
        """Coordinates of a part with fewer axes count on each axis: its rotation is that of its own
        axes."""
        own = self.parts[side["part"]].positions(length, side)
        return None if own is None else own[:, np.arange(self.axes) % own.shape[1]]

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        states: list[dict[str, Any]] = []  # in order, which keys of JSON would lose
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, tokenizer in self.parts.items():
            state, own = tokenizer.state()
            kind = name_of("tokenizers", type(tokenizer))
            states.append({"name": name, "kind": kind, "state": state})
            arrays |= {f"{name}/{key}": value for key, value in own.items()}
        return {"parts": states}, arrays

    @classmethod
    def from_state(
        cls, state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]
    ) -> MixedTokenizer:
        parts = {}
        for each in state["parts"]:
            name = each["name"]
            start = f"{name}/"
            own = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
            parts[name] = find("tokenizers", each["kind"]).from_state(each["state"], own)
        return cls(parts)


Tokenizer = MixedTokenizer
