"""Several domains in one model: each has ids of its own in one vocabulary.

A part keeps its task, its tokenizer, its units and its baselines. `core/runs/part.py` opens one
part of such a run as if it were a run of that domain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..core import task
from ..core.data.source import Source
from ..core.errors import ConfigError, TfmError, UsageError
from ..core.plugins import name_of
from ..core.protocols import Items, Sequence, Tokenizer
from ..core.task import Description, ignored
from ..tokenizers.mixed import MixedTokenizer
from ._mix.parts import Part, parse_parts
from ._mix.rows import MixedRows


@dataclass(frozen=True)
class MixOptions:
    parts: str = field(default="", metadata={"internal": True})  # what --mix gave, one a line


@dataclass(frozen=True)
class MixedItems:
    """The items of each part, by its name."""

    parts: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        prints = [f"{name} {items.fingerprint}\n" for name, items in self.parts.items()]
        return hashlib.sha256("".join(prints).encode()).hexdigest()

    @property
    def size(self) -> int:
        return sum(items.size for items in self.parts.values())

    @property
    def about(self) -> str:
        return "; ".join(f"{name}: {items.about}" for name, items in self.parts.items())


class MixTask(task.Task):
    name = "mix"
    about = "several domains in one model: tfm train --mix text:a.txt@0.5 --mix image@0.5"
    unit = "token"
    default_tokenizer = "mixed"
    generated = True  # the parts have their own data
    Options = MixOptions
    options: MixOptions
    floor_unit = ""

    def __init__(self, options: MixOptions) -> None:
        super().__init__(options)
        specs = options.parts.splitlines()
        if not specs:
            raise UsageError("--task mix: name its parts: --mix text:a.txt@0.5 --mix image@0.5")
        self.mixed: dict[str, Part] = {part.name: part for part in parse_parts(specs)}
        self.known: dict[str, Any] = {}  # the tokenizer of a part that another run has trained

    def default_source(self) -> Source:
        about = ", ".join(part.spec for part in self.mixed.values())
        return Source((), about=f"a mix of {about}")

    # -- items ---------------------------------------------------------------------------------

    def _each(self, make: Callable[[str, Part], Any]) -> MixedItems:
        return MixedItems({name: make(name, part) for name, part in self.mixed.items()})

    def items(self, source: Source) -> MixedItems:
        if source.paths:
            raise UsageError("--data: the parts of a mix have their own data; see --mix")
        return self._each(self._read)

    def _read(self, name: str, part: Part) -> Any:
        try:
            items = part.task.items(part.source())
        except TfmError as error:
            raise type(error)(f"--mix {part.spec}: {error}") from error
        known = self.known.get(name)
        return items if known is None else part.task.conform(items, known, lambda text: None)

    def conform(
        self, items: MixedItems, tokenizer: MixedTokenizer, note: Callable[[str], None]
    ) -> MixedItems:
        return self._each(
            lambda name, part: part.task.conform(items.parts[name], tokenizer.parts[name], note)
        )

    def describe(self, items: MixedItems) -> Description | None:
        lines: list[str] = []
        record: dict[str, Any] = {}
        for name, part in self.mixed.items():
            found = part.task.describe(items.parts[name])
            if found is not None:
                lines += [f"{name}: {line}" for line in found.lines]
                record[name] = found.record
        return Description(tuple(lines), record) if lines else None

    def parts(self, items: MixedItems) -> dict[str, Items]:
        own = {name: part.task.parts(items.parts[name]) for name, part in self.mixed.items()}
        if not any(own.values()):
            return {}
        found: dict[str, dict[str, Any]] = {"train": {}, "valid": {}}
        for name, part in self.mixed.items():
            splits = own[name]
            train, held = splits.get("train"), splits.get("valid") or splits.get("test")
            if train is None or held is None:
                train, held = part.task.split(items.parts[name], None)
            found["train"][name], found["valid"][name] = train, held
        return {split: MixedItems(parts) for split, parts in found.items()}

    def split(self, items: MixedItems, holdout: float | None) -> tuple[MixedItems, MixedItems]:
        both = {n: part.task.split(items.parts[n], holdout) for n, part in self.mixed.items()}
        train, held = ({name: pair[side] for name, pair in both.items()} for side in (0, 1))
        return MixedItems(train), MixedItems(held)

    def halves(self, held: MixedItems) -> tuple[MixedItems, MixedItems]:
        both = {name: part.task.halves(held.parts[name]) for name, part in self.mixed.items()}
        one, other = ({name: pair[side] for name, pair in both.items()} for side in (0, 1))
        return MixedItems(one), MixedItems(other)

    def members(self, train: MixedItems, tokenizer: MixedTokenizer) -> dict[str, dict[str, Any]]:
        return {
            name: {
                "task": part.task.name,
                "task_options": asdict(part.task.options),
                "tokenizer": {
                    "spec": part.tokenizer,
                    "kind": name_of("tokenizers", type(tokenizer.parts[name])),
                },
                "data": {
                    "paths": [] if part.path is None else [part.path],
                    "default": part.path is None,
                    "column": part.column,
                    "fingerprint": train.parts[name].fingerprint,
                },
            }
            for name, part in self.mixed.items()
        }

    # -- ids -----------------------------------------------------------------------------------

    def fit_tokenizer(self, spec: str, train: MixedItems) -> MixedTokenizer:
        if spec != self.default_tokenizer:
            raise ConfigError(
                f"--tokenizer {spec}: each part of a mix has its own: --mix text:a.txt,tokenizer="
                f"{spec}"
            )
        return MixedTokenizer(
            {
                name: self.known.get(name) or self._fit(name, part, train)
                for name, part in self.mixed.items()
            }
        )

    def _fit(self, name: str, part: Part, train: MixedItems) -> Any:
        try:
            return part.task.fit_tokenizer(part.tokenizer, train.parts[name])
        except TfmError as error:
            raise type(error)(f"--mix {part.spec}: {error}") from error

    def start_from(self, kind: str, tokenizer: Any) -> None:
        """The first part of that task keeps the tokenizer of the run."""
        names = [name for name, part in self.mixed.items() if part.task.name == kind]
        if not names:
            super().start_from(kind, tokenizer)
        self.known[names[0]] = self.mixed[names[0]].task.adapt(tokenizer)

    def first_id(self, tokenizer: MixedTokenizer) -> int:
        return sum(tokenizer.offsets[name] for name in self.known)

    def longest(self, train: MixedItems, tokenizer: MixedTokenizer) -> int | None:
        lengths = [self._longest(name, train, tokenizer) for name in self.mixed]
        return max((length for length in lengths if length is not None), default=None)

    def _longest(self, name: str, train: MixedItems, tokenizer: MixedTokenizer) -> int | None:
        return self.mixed[name].task.longest(train.parts[name], tokenizer.parts[name])

    def dataset(
        self,
        train: MixedItems,
        tokenizer: MixedTokenizer,
        context: int,
        tokens: int | None,
        seed: int,
        cache: Path,
    ) -> MixedRows:
        total = sum(part.weight for part in self.mixed.values())
        data, weights = {}, {}
        for name, part in self.mixed.items():
            longest = self._longest(name, train, tokenizer)
            share = weights[name] = part.weight / total
            data[name] = part.task.dataset(
                train.parts[name],
                tokenizer.parts[name],
                context if longest is None else min(context, longest - 1),
                None if tokens is None else int(tokens * share) + 1,
                seed,
                cache,
            )
        return MixedRows(data, weights, tokenizer, context, seed)

    def sequences(self, items: MixedItems, tokenizer: MixedTokenizer) -> Iterator[Sequence]:
        for name, part in self.mixed.items():
            for sequence in part.task.sequences(items.parts[name], tokenizer.parts[name]):
                yield tokenizer.into(sequence, name)

    def domains(
        self, train: MixedItems, held: Mapping[str, Collection[Sequence]], tokenizer: MixedTokenizer
    ) -> dict[str, tuple[task.Task, Items, dict[str, list[Sequence]], Tokenizer]]:
        found = {}
        for name, part in self.mixed.items():
            own = {
                split: [tokenizer.out_of(s) for s in sequences if s.side["part"] == name]
                for split, sequences in held.items()
            }
            found[name] = part.task, train.parts[name], own, tokenizer.parts[name]
        return found

    # -- scores --------------------------------------------------------------------------------

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        return {"token": sum(int((s.target_weight() > 0).sum()) for s in sequences)}

    def floor(self, train: MixedItems, held: MixedItems) -> dict[str, float]:
        """None of the whole: see `baselines`."""
        return {}

    def baselines(
        self,
        train: MixedItems,
        held: MixedItems,
        windows: Iterable[Sequence],
        tokenizer: MixedTokenizer,
        quick: bool,
    ) -> tuple[dict[str, float], bool]:
        """Those of each part: text.gzip."""
        found: dict[str, float] = {}
        left_out = False
        for name, part in self.mixed.items():
            own = [tokenizer.out_of(s) for s in windows if s.side["part"] == name]
            scores, hurried = part.task.baselines(
                train.parts[name], held.parts[name], own, tokenizer.parts[name], quick
            )
            found |= {f"{name}.{metric}": value for metric, value in scores.items()}
            left_out |= hurried
        return found, left_out

    def window_floor(
        self,
        read_train: Callable[[], MixedItems | None],
        windows: Iterable[Sequence],
        tokenizer: MixedTokenizer,
        protocol: str | None,
        quick: bool = False,
        note: Callable[[str], None] = ignored,
        evaluation: Any = None,
    ) -> dict[str, float] | None:
        found: dict[str, float] = {}
        for name, part in self.mixed.items():
            own = [tokenizer.out_of(s) for s in windows if s.side["part"] == name]

            def read(name: str = name) -> Any:
                train = read_train()
                return None if train is None else train.parts[name]

            scores = part.task.window_floor(read, own, tokenizer.parts[name], None, quick, note)
            found |= {f"{name}.{metric}": value for metric, value in (scores or {}).items()}
        return found or None

    def model_metrics(
        self,
        model: Any,
        tokenizer: MixedTokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
        evaluation: Any,
    ) -> dict[str, Any]:
        """`parts`: the scores of each part in its own units."""
        from ..core.score.report import report

        found = super().model_metrics(model, tokenizer, sequences, protocol, evaluation)
        found["parts"] = {}
        for name, part in self.mixed.items():
            own = [tokenizer.out_of(s) for s in sequences if s.side["part"] == name]
            within = model.part(*tokenizer.ids_of(name))
            scores = report(part.task, tokenizer.parts[name], within, own, floor={})
            dropped = ("schema", "protocol", "floor", "tokens_per_second")
            found["parts"][name] = {k: v for k, v in scores.items() if k not in dropped}
        return found

    def metrics(
        self, nll: float, tokens: int, units: Mapping[str, float], lossless: bool
    ) -> dict[str, float | None]:
        return {"nll_per_token": nll / tokens if tokens else None}

    def write(
        self, items: list[Any], prompt: Sequence | None, sampling: Any, out: BinaryIO
    ) -> None:
        raise UsageError(f"--part: choose one of {', '.join(self.mixed)}")


Task = MixTask
