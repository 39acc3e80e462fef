"""Sampling of many prompts in one decoder batch, for `sample` and at the end of `train`."""

from __future__ import annotations

import io
import tempfile
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
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

BATCH_ROWS = 32  # samples decoded at the same time
MAX_PENDING_JOBS = 128  # prompts that are being decoded or wait for an earlier one to be written
PREVIEW_SAMPLES = 8  # shown after a training run, for items of a fixed length


@dataclass
class Sample:
    """One continuation of a prompt, extended token by token."""

    decoder: StreamDecoder
    stops: tuple[bytes, ...]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    data: bytes = b""  # decoded so far
    finish_reason: str | None = None
    score: float | None = None  # of a beam search

    def feed(self, id: int, logprob: float, is_end: bool) -> bytes:
        """Appends the next id; returns the newly decoded bytes."""
        if self.finish_reason:
            return b""
        self.ids.append(id)
        self.logprobs.append(logprob)
        return self.close("end") if is_end else self._add(self.decoder.feed(id))

    def close(self, reason: str) -> bytes:
        """Ends the sample, unless it has ended; returns the bytes that were still undecoded."""
        if self.finish_reason:
            return b""
        new = self._add(self.decoder.finish())
        self.finish_reason = self.finish_reason or reason
        return new

    def item(self) -> Any:
        return self.data if self.finish_reason == "stop" else self.decoder.item()

    def _add(self, new: bytes) -> bytes:
        self.data += new
        old = len(self.data) - len(new)
        found = [self.data.find(stop, max(0, old - len(stop))) for stop in self.stops]
        if any(at >= 0 for at in found):
            self.data = self.data[: min(at for at in found if at >= 0)]
            self.finish_reason = "stop"
        return new


@dataclass
class Job:
    """A prompt and its samples."""

    prompt: Prompt
    sequence: Sequence
    length: int
    length_reason: str  # the finish reason of a sample that reaches `length`
    samples: list[Sample]
    numbers: range | list[int]  # of each sample among those of the prompt, on which it depends
    started: int = 0  # samples

    @property
    def done(self) -> bool:
        return all(sample.finish_reason for sample in self.samples)


class Sampler:
    """A model with its sampling options."""

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        model: SequenceModel,
        config: SampleConfig,
        options: Any,
        stops: tuple[str, ...] = (),
        strict: bool = False,
        quiet: bool = True,
        length_is_set: bool = True,
        dtype: str | None = None,
        compiled: CDLL | None = None,
    ) -> None:
        self.task, self.tokenizer, self.model, self.config = task, tokenizer, model, config
        self.options = options
        self.stops = tuple(stop.encode("utf-8", "surrogateescape") for stop in stops if stop)
        self.strict, self.quiet, self.length_is_set = strict, quiet, length_is_set
        self.end, self.dtype, self.compiled = task.end_token(tokenizer), dtype, compiled

    def job(self, prompt: Prompt, count: int) -> Job:
        """A prompt with `count` empty samples. DataError if the prompt cannot be continued."""
        sequence = self.task.prompt(prompt.data, self.tokenizer, self.options)
        context = self.model.config.context
        decodes_all = not self.model.has_encoder  # the source, too, is in the decoder's context
        too_long = decodes_all and len(sequence) > context and sequence.given >= context
        if too_long or sequence.given > context:
            raise DataError(
                f"a source of {sequence.given} tokens does not fit the context of {context}; "
                "shorten it, or train with a longer --context"
            )
        if len(sequence) > context and not self.model.has_encoder:
            if self.strict:
                raise DataError(
                    f"the prompt has {len(sequence)} tokens, the context {context}; shorten "
                    "the prompt, or omit --strict to use only its end"
                )
            say(
                f"the prompt has {len(sequence)} tokens; only the last ones fit "
                f"the context of {context}",
                self.quiet,
            )
        fixed = None if self.length_is_set else self.task.new_tokens(sequence, self.options)
        samples = [
            Sample(self.task.stream_decoder(self.tokenizer, sequence), self.stops)
            for _ in range(count)
        ]
        length, reason = (self.config.length, "length") if fixed is None else (fixed, "end")
        return Job(prompt, sequence, length, reason, samples, range(count))

    def sample(self, prompt: Prompt, count: int, write: Any = None) -> Job:
        """Samples `count` continuations; passes bytes to `write` as soon as they are decoded."""
        job = self.job(prompt, count)
        waiting = [job]
        decoder = self._decoder(min(count, BATCH_ROWS), len(job.sequence) + job.length)

        def next_job(wait: bool) -> Job | None:
            return waiting.pop() if waiting else None

        list(finished_jobs(decoder, self.end, next_job, write))
        return job

    def sample_all(self, take: Callable[[bool], Prompt | None], count: int) -> Iterator[Job]:
        """Samples many prompts in one batch; yields finished jobs in the order of the prompts.

        `take(wait)` returns the next prompt, or None: at the end, and without `wait` also if none
        has arrived yet. The error of a prompt that cannot be continued is raised after the jobs
        before it.
        """

        def next_job(wait: bool) -> Job | None:
            return self.next_job(take(wait), count)

        return finished_jobs(self._decoder(BATCH_ROWS, None), self.end, next_job)

    def next_job(self, prompt: Prompt | None, count: int) -> Job | None:
        """`job`, whose error names the line of the prompt; None without one."""
        try:
            return self.job(prompt, count) if prompt is not None else None
        except TfmError as error:
            where = prompt.where if prompt is not None else None
            raise (DataError(f"{where}: {error}") if where else error) from None

    def _decoder(self, rows: int, length: int | None) -> Decoder:
        from ..core.decode.batch_decoder import Decoder, for_decoding

        model, _ = for_decoding(self.model, rows, self.dtype, self.compiled)
        return Decoder(model, self.tokenizer, self.config, rows, length)


class BatchSampler(Sampler):
    """A `Sampler` that completes the samples of all prompts that have arrived, together."""

    @property
    @abstractmethod
    def most(self) -> int:
        """The number of prompts that are completed together."""

    @abstractmethod
    def fill(self, jobs: list[Job]) -> None:
        """Completes the samples of the jobs."""

    def sample_all(self, take: Callable[[bool], Prompt | None], count: int) -> Iterator[Job]:
        while True:
            jobs: list[Job] = []
            failed: TfmError | None = None
            try:
                while len(jobs) < self.most:
                    job = self.next_job(take(not jobs), count)
                    if job is None:
                        break
                    jobs.append(job)
            except TfmError as error:
                failed = error
            self.fill(jobs)
            yield from jobs
            if failed is not None:
                raise failed
            if not jobs:
                return


def finished_jobs(
    decoder: Decoder, end: int | None, take: Callable[[bool], Job | None], write: Any = None
) -> Iterator[Job]:
    """Samples the jobs that `take` returns, see `Sampler.sample_all`; yields them in order."""
    jobs: deque[Job] = deque()
    rows: dict[int, tuple[Job, Sample]] = {}
    failed: TfmError | None = None
    while True:
        while jobs and jobs[0].done:
            yield jobs.popleft()
        while decoder.free:
            if not jobs or jobs[-1].started == len(jobs[-1].samples):
                if failed or len(jobs) == MAX_PENDING_JOBS:
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
                number = job.numbers[job.started]
                row = decoder.begin(job.sequence, job.length, job.prompt.key, number)
                rows[row] = job, job.samples[job.started]
            else:
                job.samples[job.started].close(job.length_reason)
            job.started += 1
        if not jobs:
            break
        for row, new in decoder.step().items() if rows else ():
            job, sample = rows[row]
            if new is None:
                decoded = sample.close("end")
            else:
                decoded = sample.feed(*new, is_end=new[0] == end)
                if len(sample.ids) == job.length:
                    decoded += sample.close(job.length_reason)
            if write and decoded:
                write(decoded)
            if sample.finish_reason:
                decoder.end(row)
                del rows[row]
    if failed:
        raise failed


@dataclass
class Drawn:
    """Samples of a model: items of a task, or what it makes of held-out items (`Task.example`)."""

    task: Task
    options: Any
    items: list[Any] = field(default_factory=list)
    sequence: Sequence | None = None  # the prompt
    example: str | None = None

    def preview(self, width: int) -> str | None:
        """The samples for a terminal of `width` columns; None if they are no text."""
        if self.example is not None:
            return printable(self.example)
        preview = self.task.preview(self.items, self.sequence, self.options, width)
        item = self.items[0]
        if preview is not None or not isinstance(item, bytes):
            return preview
        try:
            return printable(item[: len(item) - 3].decode() if self.task.binary else item.decode())
        except UnicodeDecodeError:
            return None

    def file(self, suffix: str) -> bytes | None:
        """The samples as a .png or .wav file, if the task has such a form."""
        if self.example is not None:
            return None
        if suffix in self.task.file_types:
            out = io.BytesIO()
            self.task.write_as(suffix, self.items, self.sequence, self.options, out)
            return out.getvalue()
        if suffix != ".png" or "plot" not in {each.name for each in fields(self.options)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"plot{suffix}"
            self.task.plot(self.items, replace(self.options, plot=str(path)))
            return path.read_bytes()


def draw_samples(
    task: Task, tokenizer: Tokenizer, model: SequenceModel, length: int, heldout: Iterable[Sequence]
) -> Drawn:
    """A few short samples, to show after training or on the way. `heldout`: a few held-out items,
    for tasks that continue those."""
    options = task.SampleOptions()
    example = task.example(model, tokenizer, heldout)
    if example is not None:
        return Drawn(task, options, example=example)
    if task.draws_files:
        config = SampleConfig(length=0)
        items = task.draw(model, tokenizer, None, heldout, config, options, lambda text: None)
        return Drawn(task, options, items)
    sampler = Sampler(
        task, tokenizer, model, SampleConfig(length=length), options, length_is_set=False
    )
    count = PREVIEW_SAMPLES
    if task.new_tokens(task.prompt(None, tokenizer, options), options) is None:
        sampler.length_is_set, count = True, 1
    job = sampler.sample(Prompt(None), count)
    return Drawn(task, options, [sample.item() for sample in job.samples], job.sequence)
