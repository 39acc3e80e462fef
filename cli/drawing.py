"""Draws as they grow, for `sample` and at the end of `train`."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.config import SampleConfig
from ..core.errors import DataError, TfmError
from .prompts import Prompt
from .render import printable, say

if TYPE_CHECKING:
    from ctypes import CDLL

    from ..core.decode.batch_decoder import Decoder
    from ..core.model.sequence_model import SequenceModel
    from ..core.protocols import Sequence, StreamDecoder, Tokenizer
    from ..core.task import Task

ROWS = 32  # draws side by side
HELD = 128  # prompts of many that are worked on or wait for one before them, at most
SHOWN = 8  # draws behind a training run, of items that end by themselves


@dataclass
class Draw:
    """One continuation as it grows."""

    decoder: StreamDecoder
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
        return self.close("end") if is_end else self._add(self.decoder.feed(id))

    def close(self, reason: str) -> bytes:
        if self.finish_reason:
            return b""
        new = self._add(self.decoder.finish())
        self.finish_reason = self.finish_reason or reason
        return new

    def item(self) -> Any:
        return self.data if self.finish_reason == "stop" else self.decoder.item()

    def _add(self, new: bytes) -> bytes:
        self.data += new
        if self.stop:
            at = self.data.find(self.stop, max(0, len(self.data) - len(new) - len(self.stop)))
            if at >= 0:
                self.data, self.finish_reason = self.data[:at], "stop"
        return new


@dataclass
class Job:
    """A prompt and its draws."""

    prompt: Prompt
    sequence: Sequence
    length: int
    ends: str  # the finish reason where the length is reached
    draws: list[Draw]
    begun: int = 0

    @property
    def over(self) -> bool:
        return all(draw.finish_reason for draw in self.draws)


class Sampler:
    """A model and how to draw from it."""

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        model: SequenceModel,
        config: SampleConfig,
        asked: Any,
        stop: str | None = None,
        strict: bool = False,
        quiet: bool = True,
        length_given: bool = True,
        dtype: str | None = None,
        compiled: CDLL | None = None,
    ) -> None:
        self.task, self.tokenizer, self.model, self.config = task, tokenizer, model, config
        self.asked, self.stop = asked, stop.encode() if stop else None
        self.strict, self.quiet, self.length_given = strict, quiet, length_given
        self.end, self.dtype, self.compiled = task.end_token(tokenizer), dtype, compiled

    def job(self, prompt: Prompt, count: int) -> Job:
        """`count` draws of a prompt, to be drawn. DataError where it cannot be gone on from."""
        sequence = self.task.prompt(prompt.data, self.tokenizer, self.asked)
        context = self.model.config.context
        if len(sequence) > context:
            if self.strict:
                raise DataError(
                    f"the prompt has {len(sequence)} tokens, the context {context}; shorten "
                    "it, or leave --strict away to keep its end"
                )
            say(
                f"the prompt has {len(sequence)} tokens: only the last of them fit "
                f"the context of {context}",
                self.quiet,
            )
        own = None if self.length_given else self.task.new_tokens(sequence, self.asked)
        draws = [
            Draw(self.task.stream_decoder(self.tokenizer, sequence), self.stop)
            for _ in range(count)
        ]
        length, ends = (self.config.length, "length") if own is None else (own, "end")
        return Job(prompt, sequence, length, ends, draws)

    def draw(self, prompt: Prompt, count: int, write: Any = None) -> Job:
        """A prompt's continuations; with `write`, bytes go there as soon as they are certain."""
        job = self.job(prompt, count)
        waiting = [job]
        decoder = self._decoder(min(count, ROWS), len(job.sequence) + job.length)
        list(self._drawn(decoder, lambda _: waiting.pop() if waiting else None, write))
        return job

    def draw_all(self, take: Callable[[bool], Prompt | None], count: int) -> Iterator[Job]:
        """Jobs of many prompts, side by side, in order, each as soon as it and those before it
        are over. `take(wait)`: the next prompt; none where there is none yet, or no more.

        Where a prompt cannot be gone on from, the error comes after those before it.
        """

        def next_job(wait: bool) -> Job | None:
            prompt = take(wait)
            try:
                return self.job(prompt, count) if prompt is not None else None
            except TfmError as error:
                where = prompt.where if prompt is not None else None
                raise (DataError(f"{where}: {error}") if where else error) from None

        return self._drawn(self._decoder(ROWS, None), next_job)

    def _decoder(self, rows: int, length: int | None) -> Decoder:
        from ..core.decode.batch_decoder import Decoder, for_decoding

        model, _ = for_decoding(self.model, rows, self.dtype, self.compiled)
        return Decoder(model, self.tokenizer, self.config, rows, length)

    def _drawn(
        self, decoder: Decoder, take: Callable[[bool], Job | None], write: Any = None
    ) -> Iterator[Job]:
        jobs: deque[Job] = deque()
        rows: dict[int, tuple[Job, Draw]] = {}
        failed: TfmError | None = None
        while True:
            while jobs and jobs[0].over:
                yield jobs.popleft()
            while decoder.free:
                if not jobs or jobs[-1].begun == len(jobs[-1].draws):
                    if failed or len(jobs) == HELD:
                        break
                    try:
                        job = take(not jobs)
                    except TfmError as error:
                        failed, job = error, None
                    if job is None:
                        break
                    jobs.append(job)
                job = jobs[-1]
                if job.length:
                    row = decoder.begin(job.sequence, job.length, job.prompt.key, job.begun)
                    rows[row] = job, job.draws[job.begun]
                else:
                    job.draws[job.begun].close(job.ends)
                job.begun += 1
            if not jobs:
                break
            for row, new in decoder.step().items() if rows else ():
                job, draw = rows[row]
                if new is None:
                    certain = draw.close("end")
                else:
                    certain = draw.feed(*new, is_end=new[0] == self.end)
                    if len(draw.ids) == job.length:
                        certain += draw.close(job.ends)
                if write and certain:
                    write(certain)
                if draw.finish_reason:
                    decoder.end(row)
                    del rows[row]
        if failed:
            raise failed


def show_sample(
    task: Task, tokenizer: Tokenizer, model: SequenceModel, length: int, own: Iterable[Sequence]
) -> str | None:
    """A short sample for a terminal: the task's picture, or text; none where it is neither.
    own: some of what the run holds out."""
    asked = task.SampleOptions()
    width = min(100, shutil.get_terminal_size().columns - 4)
    if task.draws_files:
        items = task.draw(model, tokenizer, None, own, SampleConfig(length=0), asked)
        return task.preview(items, None, asked, width)
    sampler = Sampler(
        task, tokenizer, model, SampleConfig(length=length), asked, length_given=False
    )
    count = SHOWN
    if task.new_tokens(task.prompt(None, tokenizer, asked), asked) is None:
        sampler.length_given, count = True, 1
    job = sampler.draw(Prompt(None), count)
    items = [draw.item() for draw in job.draws]
    picture = task.preview(items, job.sequence, asked, width)
    item = items[0]
    if picture is not None or not isinstance(item, bytes):
        return picture
    try:
        return printable(item[: len(item) - 3].decode() if task.binary else item.decode())
    except UnicodeDecodeError:
        return None
