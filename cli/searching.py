"""Beam search for `tfm sample --beam`: the samples of a prompt are its best continuations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..core.divided import processes
from ..core.errors import UsageError
from .drawing import BatchSampler, Job
from .prompts import Prompt


class Searcher(BatchSampler):
    """A `Sampler` whose samples are found by beam search."""

    @property
    def most(self) -> int:
        from ..core.decode.beam import prompts_at_once

        return prompts_at_once(self.config.beam) * processes()

    def check(self, count: int, chosen: set[str]) -> None:
        """UsageError for flags that a beam search has no use for. chosen: those that were given."""
        if chosen:
            flag = "--" + sorted(chosen)[0].replace("_", "-")
            raise UsageError(f"{flag} and --beam exclude each other: a beam search is not random")
        if count > self.config.beam:
            raise UsageError(
                f"-n {count}: a beam of {self.config.beam} finds no more; raise --beam"
            )
        if self.task.draws_files or self.tokenizer.axes > 1:
            raise UsageError(f"--beam: not for --task {self.task.name}")

    def sample(self, prompt: Prompt, count: int, write: Any = None) -> Job:
        job = self.job(prompt, count)
        self.fill([job])
        if write:
            write(job.samples[0].data)
        return job

    def fill(self, jobs: list[Job]) -> None:
        """The best continuation comes first."""
        from ..core.decode.beam import beam_search

        lengths = {job.length for job in jobs}
        for length in lengths:  # one, except for tasks whose items have a length of their own
            some = [job for job in jobs if job.length == length]
            config = replace(self.config, length=length)
            prompts = [job.sequence for job in some]
            found = beam_search(self.model, self.tokenizer, prompts, config, self.end)
            for job, hypotheses in zip(some, found, strict=True):
                del job.samples[max(1, len(hypotheses)) :]
                for sample, best in zip(job.samples, hypotheses, strict=False):
                    for id, logprob in zip(best.ids, best.logprobs, strict=True):
                        sample.feed(id, logprob, is_end=id == self.end)
                    sample.score = best.score
                for sample in job.samples:
                    sample.close(job.length_reason)
