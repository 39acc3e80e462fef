"""`ListTask`: the base of a domain whose items are independent of each other and fit in memory.

It reads files, splits by content and makes training rows, so that a domain is what is its own: how
a file is read, a tokenizer, a floor, and how samples are written.
"""

from __future__ import annotations

import functools
import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from .. import protocols
from ..errors import ConfigError, DataError
from ..protocols import Sequence
from ..task import Task
from .compressed import unpacked
from .datasets import Packed
from .keyed_random import held_out, uniform
from .scratch import shown
from .sequence_store import SequenceList
from .source import Source

T = TypeVar("T")
HOLDOUT = 0.1  # of the items, without --holdout
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class ItemList(Generic[T]):
    """Items in memory. about: a description for messages; parts: those that the data names."""

    items: list[T]
    about: str
    parts: Mapping[str, ItemList[T]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    @functools.cached_property
    def size(self) -> int:
        """The numbers, characters and bytes in all items."""
        return count(self.items)

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()

    @functools.cached_property
    def digests(self) -> list[str]:
        """A hash of the content of each item."""
        return [hashlib.sha256(content(item)).hexdigest() for item in self.items]

    def split(self, fraction: float, purpose: str) -> tuple[ItemList[T], ItemList[T]]:
        """(the rest, about `fraction` of the items) by a hash of each item, so that equal items
        stay together. Another purpose gives an independent split. DataError if all are equal."""
        random = np.array([uniform(purpose, digest) for digest in self.digests])
        chosen = held_out(random, fraction)
        if not chosen.any():
            raise DataError(
                f"--data: {self.about}: need at least 2 that differ so that one is held out; "
                "use --valid"
            )
        rest, held = (
            [item for item, own in zip(self, mask, strict=True) if own]
            for mask in (~chosen, chosen)
        )
        of_all = f"of {len(self):,} items"
        return (
            ItemList(rest, f"{len(rest):,} {of_all}"),
            ItemList(held, f"{len(held):,} {of_all}"),
        )


def count(item: Any) -> int:
    """The numbers, characters and bytes in an item."""
    if isinstance(item, (str, bytes)):
        return len(item)
    if isinstance(item, np.ndarray):
        return item.size
    if is_dataclass(item):
        return sum(count(getattr(item, f.name)) for f in fields(item))
    if isinstance(item, Mapping):
        return sum(map(count, item.values()))
    return sum(map(count, item)) if isinstance(item, (list, tuple)) else 1


def content(item: Any) -> bytes:
    """The bytes that two items share if and only if they are equal: of numbers, text, bytes,
    arrays, and lists, dictionaries and dataclasses of them. TypeError for anything else."""

    def plain(value: Any) -> Any:
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": value.hex()}
        if isinstance(value, np.ndarray):
            return {"array": value.tobytes().hex(), "of": [str(value.dtype), *value.shape]}
        if isinstance(value, np.generic):
            return value.item()
        if is_dataclass(value):
            return {f.name: getattr(value, f.name) for f in fields(value)}
        raise TypeError(f"an item has a {type(value).__name__}, of which no hash is known")

    return json.dumps(item, default=plain, sort_keys=True).encode()


class ListTask(Task, Generic[T]):
    """A domain of items T. A subclass defines `read`, `Tokenizer`, `floor` and `write`, and the
    attributes of `Task`; every other member has a default.

    Items must be numbers, text, bytes, arrays, or lists, dictionaries and dataclasses of them.
    """

    # the tokenizer that `default_tokenizer` names, made without arguments; for others, or for one
    # that learns from the data, define `fit_tokenizer`
    Tokenizer: ClassVar[Callable[[], protocols.Tokenizer]]

    @abstractmethod
    def read(self, data: bytes) -> Iterable[T] | Mapping[str, Iterable[T]]:
        """The items of a file with this content, or those of each part that it names: train, valid,
        test. A ValueError says why it has none."""

    def variants(self, item: T) -> Iterable[T]:
        """What is trained on for an item: the item itself and any others that are as likely, such
        as its transpositions. By default the item alone."""
        return (item,)

    # -- data ----------------------------------------------------------------------------------

    def items(self, source: Source) -> ItemList[T]:
        found: dict[str, list[T]] = {}
        for path in source.files():
            for part, some in self._read(unpacked(path).read_bytes(), f"--data {shown(path)}"):
                found.setdefault(part, []).extend(some)
        everything = [item for some in found.values() for item in some]
        if not everything:
            raise DataError(f"--data {source.describe()}: no items in it")
        if "train" not in found or not set(found) <= set(PARTS):
            return ItemList(everything, source.describe())
        about = {part: f"{len(found[part]):,} items" for part in PARTS if found.get(part)}
        parts = {part: ItemList(found[part], about[part]) for part in about}
        return ItemList(everything, source.describe(), parts)

    def _read(self, data: bytes, where: str) -> Iterator[tuple[str, list[T]]]:
        """(part, its items); the part is empty if the data names none. DataError for no items."""
        try:
            found = self.read(data)
            parts = found if isinstance(found, Mapping) else {"": found}
            yield from ((part, list(some)) for part, some in parts.items())
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        except (TypeError, LookupError, AttributeError, RecursionError) as error:
            raise DataError(f"{where}: not of the form of --task {self.name} ({error})") from error

    def parts(self, items: ItemList[T]) -> Mapping[str, ItemList[T]]:
        return items.parts

    def split(self, items: ItemList[T], holdout: float | None) -> tuple[ItemList[T], ItemList[T]]:
        return items.split(HOLDOUT if holdout is None else holdout, "split")

    def halves(self, held: ItemList[T]) -> tuple[ItemList[T], ItemList[T]]:
        return held.split(0.5, "halves")

    # -- ids -----------------------------------------------------------------------------------

    def fit_tokenizer(self, spec: str, train: ItemList[T]) -> protocols.Tokenizer:
        if spec != self.default_tokenizer:
            raise ConfigError(
                f"--tokenizer {spec}: known for the {self.name} task: {self.default_tokenizer}"
            )
        return type(self).Tokenizer()

    def dataset(
        self,
        train: ItemList[T],
        tokenizer: protocols.Tokenizer,
        context: int,
        tokens: int | None,
        seed: int,
        cache: Path,
    ) -> Packed:
        """Rows of `variants` of all items. Nothing is cached on the disk, so that a change of the
        domain's code is seen at once."""
        return Packed(self._encoded(train, tokenizer), tokenizer, context)

    _encoded_last: tuple[object, object, SequenceList] | None = None

    def _encoded(self, train: ItemList[T], tokenizer: protocols.Tokenizer) -> SequenceList:
        """All sequences of the training items, kept for the next call."""
        last = self._encoded_last
        if last is None or last[0] is not train or last[1] is not tokenizer:
            each = (tokenizer.encode(one) for item in train for one in self.variants(item))
            last = self._encoded_last = train, tokenizer, SequenceList(each)
        return last[2]

    def longest(self, train: ItemList[T], tokenizer: protocols.Tokenizer) -> int | None:
        """Items with coordinates must fit; all others can be cut."""
        sequences = self._encoded(train, tokenizer)
        whole = any(sequences.positions(n, tokenizer) is not None for n in range(len(sequences)))
        return max(map(len, sequences)) if whole else None

    def sequences(self, items: ItemList[T], tokenizer: protocols.Tokenizer) -> Iterator[Sequence]:
        return (tokenizer.encode(item) for item in items)

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        """As many units as ids that are predicted."""
        return {self.unit: sum(len(sequence) - sequence.given for sequence in sequences)}

    # -- samples -------------------------------------------------------------------------------

    def prompt(self, data: bytes | None, tokenizer: Any, sampling: Any) -> Sequence:
        """The beginning of an item, in the form in which `read` takes it."""
        if not data:
            return super().prompt(None, tokenizer, sampling)
        items = [item for _, some in self._read(data, "--prompt") for item in some]
        if len(items) != 1:
            raise DataError(f"--prompt: must be one item, has {len(items)}")
        ids = tokenizer.encode(items[0]).ids
        return Sequence(ids[:-1] if ids[-1] == self.end_token(tokenizer) else ids)
