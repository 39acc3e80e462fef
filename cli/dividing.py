"""`tfm sample --nproc N`: the samples of all prompts that have arrived, divided among processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..core.config import SampleConfig
from ..core.divided import Unit, divided, processes
from .drawing import BATCH_ROWS, BatchSampler, Job, Sample, Sampler, finished_jobs
from .prompts import Prompt

if TYPE_CHECKING:
    from ..core.decode.native_model import NativeModel
    from ..core.model.sequence_model import SequenceModel
    from ..core.protocols import Tokenizer
    from ..core.task import Task

BATCH_PROMPTS = 64  # for each process


class Divider(BatchSampler):
    """A `Sampler` whose samples are divided among processes. They have the bits of those of one
    process: each decoder has as many rows as its one, and a row does not depend on the others."""

    @property
    def most(self) -> int:
        return BATCH_PROMPTS * processes()

    def sample(self, prompt: Prompt, count: int, write: Any = None) -> Job:
        if count == 1:  # nothing to divide: it is written while it is sampled
            return Sampler.sample(self, prompt, count, write)
        job = self.job(prompt, count)
        self._divide([job], min(count, BATCH_ROWS), len(job.sequence) + job.length)
        return job

    def fill(self, jobs: list[Job]) -> None:
        self._divide(jobs, BATCH_ROWS, None)

    def _divide(self, jobs: list[Job], rows: int, length: int | None) -> None:
        """Each process has every N-th sample. rows, length: of the decoder."""
        from ..core.decode.batch_decoder import chosen_dtype
        from ..core.decode.sampling import as_unit

        all_of = [(place, number) for place, job in enumerate(jobs) for number in job.numbers]
        shares = [all_of[rank :: processes()] for rank in range(min(processes(), len(all_of)))]
        decoder = {
            "config": asdict(self.config),
            "rows": rows,
            "length": length,
            "dtype": chosen_dtype(self.model, rows, self.dtype, self.compiled),
            "native": self.compiled is not None,
        }
        prompts = [
            {"prompt": as_unit(job.sequence), "key": job.prompt.key, "length": job.length}
            for job in jobs
        ]

        def units() -> Iterator[Unit]:
            for share in shares:
                numbers: dict[int, list[int]] = {}  # by prompt
                for place, number in share:
                    numbers.setdefault(place, []).append(number)
                asked = [{**prompts[place], "numbers": some} for place, some in numbers.items()]
                stops = [stop.decode("latin-1") for stop in self.stops]
                yield {"prompts": asked, "stops": stops, "end": self.end, "decoder": decoder}

        things = self.model, self.tokenizer, self.task
        for share, found in zip(shares, divided(draw, things, units()), strict=True):
            for (place, number), drawn in zip(share, found["samples"], strict=True):
                job, sample = jobs[place], jobs[place].samples[number]
                for id, logprob in drawn:
                    sample.feed(id, logprob, is_end=id == self.end)
                sample.close(job.length_reason if len(sample.ids) == job.length else "end")


def draw(
    model: SequenceModel,
    tokenizer: Tokenizer,
    task: Task,
    prompts: list[dict[str, Any]],
    stops: list[str],
    end: int | None,
    decoder: dict[str, Any],
) -> Unit:
    """`samples`: of each prompt and number the pairs (id, logprob), up to a stop or the end."""
    from ..core.decode.batch_decoder import Decoder
    from ..core.decode.sampling import from_unit

    encoded = tuple(stop.encode("latin-1") for stop in stops)
    jobs = []
    for each in prompts:
        sequence, numbers = from_unit(each["prompt"]), each["numbers"]
        samples = [Sample(task.stream_decoder(tokenizer, sequence), encoded) for _ in numbers]
        prompt = Prompt(None, each["key"])
        jobs.append(Job(prompt, sequence, each["length"], "length", samples, numbers))
    waiting = list(reversed(jobs))

    def next_job(wait: bool) -> Job | None:
        return waiting.pop() if waiting else None

    rows = decoder["rows"]
    weights = _decoding_model(model, rows, decoder["dtype"], decoder["native"])
    config = SampleConfig(**decoder["config"])
    batch = Decoder(weights, tokenizer, config, rows, decoder["length"])
    list(finished_jobs(batch, end, next_job))
    drawn = [sample for job in jobs for sample in job.samples]
    return {"samples": [list(zip(each.ids, each.logprobs, strict=True)) for each in drawn]}


@lru_cache(maxsize=1)  # the copy serves all prompts of a command
def _decoding_model(
    model: SequenceModel, rows: int, dtype: str, native: bool
) -> SequenceModel | NativeModel:
    """The model that a decoder takes. native: whether the leading process has the C library."""
    from ..core.decode.batch_decoder import for_decoding
    from .kernels import compiled
    from .processes import needs_compiler

    library = compiled() if native else None
    if native:
        needs_compiler(library)
    return for_decoding(model, rows, dtype, library)[0]
