"""Draws as they grow, for `sample` and at the end of `train`."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..core.config import SampleConfig
from ..core.errors import DataError
from ..core.protocols import DrawsWhole
from .render import printable, say

if TYPE_CHECKING:
    from ..core.model import SequenceModel
    from ..core.protocols import Sequence, Task, Tokenizer

SHOWN = 8  # draws behind a training run, of items that end by themselves


@dataclass(frozen=True)
class Prompt:
    data: bytes | None  # none: the task's own beginning
    id: str | None = None

    @property
    def key(self) -> str:
        """What randomness hangs on: the id, else the prompt itself."""
        return self.id if self.id is not None else hashlib.sha256(self.data or b"").hexdigest()


@dataclass
class Draw:
    """One continuation as it grows."""

    drawn: Any
    stop: bytes | None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    data: bytes = b""  # what was streamed
    finish_reason: str | None = None

    def feed(self, id: int, logprob: float, is_end: bool) -> bytes:
        """Takes the next id; gives the bytes that are new."""
        if self.finish_reason:
            return b""
        self.ids.append(id)
        self.logprobs.append(logprob)
        return self.close("end") if is_end else self._add(self.drawn.feed(id))

    def close(self, reason: str) -> bytes:
        if self.finish_reason:
            return b""
        new = self._add(self.drawn.rest())
        self.finish_reason = self.finish_reason or reason
        return new

    def item(self) -> Any:
        return self.data if self.finish_reason == "stop" else self.drawn.item()

    def _add(self, new: bytes) -> bytes:
        self.data += new
        if self.stop:
            at = self.data.find(self.stop, max(0, len(self.data) - len(new) - len(self.stop)))
            if at >= 0:
                self.data, self.finish_reason = self.data[:at], "stop"
        return new


class Sampler:
    """A model and how to draw from it."""

    def __init__(
        self, task: Task, tokenizer: Tokenizer, model: SequenceModel, config: SampleConfig,
        asked: Any, stop: str | None = None, strict: bool = False, quiet: bool = True,
        length_given: bool = True,
    ) -> None:  # fmt: skip
        self.task, self.tokenizer, self.model, self.config = task, tokenizer, model, config
        self.asked, self.stop = asked, stop.encode() if stop else None
        self.strict, self.quiet, self.length_given = strict, quiet, length_given
        self.sequence: Sequence  # the prompt that was last drawn from

    def streamed(self, draws: list[Draw], live: bool) -> bool:
        """Whether all there is to write was written already."""
        return live and all(draw.data or not draw.ids for draw in draws)

    def draws(self, prompt: Prompt, count: int, write: Any = None) -> list[Draw]:
        """`count` continuations; with `write`, bytes go there as soon as they are certain."""
        from ..core.sample import generate

        self.sequence = self.task.prompt(prompt.data, self.tokenizer, self.asked)
        context = self.model.config.context
        if len(self.sequence) > context:
            if self.strict:
                raise DataError(
                    f"the prompt has {len(self.sequence)} tokens, the context {context}; shorten "
                    "it, or leave --strict away to keep its end"
                )
            say(f"the prompt has {len(self.sequence)} tokens: only the last of them fit "
                f"the context of {context}", self.quiet)  # fmt: skip
        own = None if self.length_given else self.task.length(self.sequence, self.asked)
        config = replace(self.config, length=own) if own is not None else self.config
        end = self.task.ends(self.tokenizer)
        draws = [
            Draw(self.task.drawn(self.tokenizer, self.sequence), self.stop) for _ in range(count)
        ]
        steps = generate(
            self.model, self.tokenizer, self.sequence, config, count, prompt.key, end
        )  # fmt: skip
        taken = 0
        for step in steps:
            taken += 1
            for draw, id, logprob in zip(draws, step.ids, step.logprobs, strict=True):
                new = draw.feed(id, logprob, id == end)
                if write and new:
                    write(new)
            if all(draw.finish_reason for draw in draws):
                break
        # where ids ran out before the length, nothing further was legal: the item is over
        reason = "length" if taken == config.length and own is None else "end"
        for draw in draws:
            new = draw.close(reason)
            if write and new:
                write(new)
        return draws


def show_sample(
    task: Task,
    tokenizer: Tokenizer,
    model: SequenceModel,
    length: int,
    own: Iterable[Sequence],
) -> str | None:
    """A short sample for a terminal: the task's picture, or text; none where it is neither.
    own: some of what the run holds out."""
    asked = task.SampleOptions()
    width = min(100, shutil.get_terminal_size().columns - 4)
    if isinstance(task, DrawsWhole):
        items = task.draw(model, tokenizer, None, own, SampleConfig(length=0), asked)
        return task.preview(items, None, asked, width)
    sampler = Sampler(
        task, tokenizer, model, SampleConfig(length=length), asked, length_given=False
    )
    count = SHOWN
    if task.length(task.prompt(None, tokenizer, asked), asked) is None:
        sampler.length_given, count = True, 1
    items = [draw.item() for draw in sampler.draws(Prompt(None), count)]
    picture = task.preview(items, sampler.sequence, asked, width)
    item = items[0]
    if picture is not None or not isinstance(item, bytes):
        return picture
    try:
        return printable(item[: len(item) - 3].decode() if task.binary else item.decode())
    except UnicodeDecodeError:
        return None
