"""Beam search: the likeliest continuations of prompts, many prompts in one batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import SampleConfig
from ..divided import Unit, divided
from ..errors import DataError
from ..model.sequence_model import DecodingState, SequenceModel
from ..ops.reference import masked_to_support
from ..protocols import Sequence, Tokenizer
from .sampling import as_unit, clip_prompt, from_unit, legal_range

ROWS = 256  # hypotheses of all prompts that are extended at once
Partial = tuple[tuple[int, ...], tuple[float, ...]]  # ids and their log-probabilities


@dataclass(frozen=True)
class Hypothesis:
    """A continuation. ids: with the end token, if it has ended; logprobs: of each id; score: their
    sum over the length penalty."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: float
    ended: bool


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14). length: ids, the end token included."""
    return float(((5 + length) / 6) ** alpha)


def beam_search(
    model: SequenceModel,
    tokenizer: Tokenizer,
    prompts: list[Sequence],
    config: SampleConfig,
    end: int | None,
) -> Iterator[list[Hypothesis]]:
    """For each prompt its best `config.beam` continuations of up to `config.length` ids, the best
    first. end: the id that ends one.

    A step extends each of the `beam` best open hypotheses by every id and keeps the best; those
    that end are finished. The search of a prompt is over when no open hypothesis can become better
    than the worst of `beam` finished ones. With a beam as wide as there are continuations it is
    exhaustive. DataError for a prompt that is longer than the context.
    """
    each = prompts_at_once(config.beam)
    groups = (prompts[first : first + each] for first in range(0, len(prompts), each))
    units = (
        {"prompts": list(map(as_unit, group)), "config": asdict(config), "end": end}
        for group in groups
    )
    for found in divided(search_group, (model, tokenizer), units):
        for best in found["best"]:
            yield [Hypothesis(tuple(ids), tuple(ps), *rest) for ids, ps, *rest in best]


def prompts_at_once(beam: int) -> int:
    """The number of prompts whose continuations are searched together."""
    return max(1, ROWS // beam)


def search_group(
    model: SequenceModel,
    tokenizer: Tokenizer,
    prompts: list[Unit],
    config: Mapping[str, Any],
    end: int | None,
) -> Unit:
    """`best`: of each prompt the fields of its hypotheses. prompts: of `as_unit`."""
    some = list(map(from_unit, prompts))
    found = _Search(model, tokenizer, some, SampleConfig(**config), end).run()
    return {"best": [[[h.ids, h.logprobs, h.score, h.ended] for h in best] for best in found]}


class _Search:
    """The search of a few prompts. N prompts, W hypotheses of each, V ids."""

    def __init__(
        self,
        model: SequenceModel,
        tokenizer: Tokenizer,
        prompts: list[Sequence],
        config: SampleConfig,
        end: int | None,
    ) -> None:
        context = model.config.context
        if not model.has_encoder:
            prompts = [clip_prompt(prompt, context) for prompt in prompts]
        self.model, self.tokenizer, self.prompts = model.eval(), tokenizer, prompts
        self.width, self.alpha, self.end = config.beam, config.length_penalty, end
        for prompt in prompts:
            if len(prompt) > context:
                raise DataError(f"the prompt has {len(prompt)} tokens, the context {context}")
        # a target that outgrows the context ends there
        room = [context - (0 if model.has_encoder else len(prompt)) for prompt in prompts]
        self.lengths = [min(config.length, most) for most in room]
        self.open: list[list[Partial]] = [[((), ())] for _ in prompts]
        self.finished: list[list[Hypothesis]] = [[] for _ in prompts]
        self.supports = [
            tokenizer.support(len(prompt) + length, prompt.side)
            for prompt, length in zip(prompts, self.lengths, strict=True)
        ]

    @torch.no_grad()
    def run(self) -> list[list[Hypothesis]]:
        state, hidden = self._prefill()
        searching = {n for n, length in enumerate(self.lengths) if length}
        for position in range(max(self.lengths, default=0)):
            if not searching:
                break
            rows, ids = self._extend(hidden, position, searching)
            searching = {n for n in searching if self.open[n] and not self._is_over(n, position)}
            device = hidden.device
            taken = [int(row // self.width in searching) for row in range(len(rows))]
            state = state.select(torch.tensor(rows, device=device))
            new, lengths = torch.tensor(ids, device=device), torch.tensor(taken, device=device)
            hidden = self.model.step(new[:, None], state, None, lengths)[:, 0]
        return [self._best(number) for number in range(len(self.prompts))]

    def _prefill(self) -> tuple[DecodingState, Tensor]:
        """The state of all rows, W a prompt, and their hidden states (N * W, D)."""
        model, device = self.model, self.model.head.weight.device
        most = max(map(len, self.prompts)) + max(self.lengths)
        rows = len(self.prompts) * self.width
        state = model.start(rows, min(most, model.config.context))
        state.at = torch.zeros(rows, dtype=torch.int64, device=device)
        hidden = torch.zeros(rows, model.config.width, device=device)
        for number, prompt in enumerate(self.prompts):
            one = model.start(1, len(prompt))
            ids = torch.from_numpy(prompt.ids)[None].to(device)
            last = model.prefill(ids, one, None, prompt.given)[0, -1]
            for row in range(number * self.width, (number + 1) * self.width):
                state.assign(row, one)
                hidden[row] = last
        return state, hidden

    def _extend(
        self, hidden: Tensor, position: int, searching: set[int]
    ) -> tuple[list[int], list[int]]:
        """Extends the open hypotheses of the prompts `searching` by one id. Returns the row that
        each new row continues and its id, for all N * W rows."""
        logprobs = self._logprobs(hidden, position)
        vocab = logprobs.shape[-1]
        rows = list(range(len(hidden)))
        ids = [0] * len(hidden)
        sums = [
            sum(hypotheses[n][1]) if n < len(hypotheses) else -math.inf
            for hypotheses in self.open
            for n in range(self.width)
        ]
        totals = torch.tensor(sums, device=logprobs.device)[:, None] + logprobs
        totals = totals.view(len(self.prompts), -1)
        best = totals.topk(min(2 * self.width, totals.shape[1]))
        found, places = best.values.tolist(), best.indices.tolist()
        before_rows = [place // vocab + n * self.width for n, p in enumerate(places) for place in p]
        flat = [place % vocab for p in places for place in p]
        own = logprobs[before_rows, flat].view(len(places), -1).tolist()
        for number in searching:
            before, first = self.open[number], number * self.width
            extended: list[Partial] = []
            for rank, (total, place) in enumerate(zip(found[number], places[number], strict=True)):
                if total == -math.inf:
                    break
                parent, id = divmod(place, vocab)
                ids_before, logprobs_before = before[parent]
                hypothesis = (*ids_before, id), (*logprobs_before, own[number][rank])
                if id == self.end:
                    if rank < self.width:
                        self._finish(number, hypothesis, True)
                elif len(extended) < self.width:
                    row = first + len(extended)
                    rows[row], ids[row] = first + parent, id
                    extended.append(hypothesis)
            self.open[number] = extended
        return rows, ids

    def _logprobs(self, hidden: Tensor, position: int) -> Tensor:
        """(N * W, V) float64 log-probabilities over the legal ids."""
        logits = self.model.logits(hidden).double()
        every = (0, self.tokenizer.vocab_size)
        ranges = [
            every if support is None else legal_range(support, len(prompt) + position, every[1])
            for support, prompt, length in zip(
                self.supports, self.prompts, self.lengths, strict=True
            )
            for _ in range(self.width)
        ]
        logits = masked_to_support(logits, torch.tensor(ranges, device=logits.device))
        return logits.log_softmax(-1)

    def _finish(self, number: int, hypothesis: Partial, ended: bool) -> None:
        ids, logprobs = hypothesis
        score = sum(logprobs) / length_penalty(len(ids), self.alpha)
        self.finished[number].append(Hypothesis(ids, logprobs, score, ended))
        self.finished[number].sort(key=lambda each: -each.score)
        del self.finished[number][self.width :]

    def _is_over(self, number: int, position: int) -> bool:
        """Whether the prompt has no open hypothesis that can become one of its best."""
        if position + 1 >= self.lengths[number]:
            return True
        if len(self.finished[number]) < self.width:
            return False
        # a sum of log-probabilities only falls; a length penalty divides it by the most at the end
        longest = self.lengths[number] if self.alpha > 0 else position + 2
        bound = max(sum(each) for _, each in self.open[number])
        return self.finished[number][-1].score >= bound / length_penalty(longest, self.alpha)

    def _best(self, number: int) -> list[Hypothesis]:
        """The best finished hypotheses, and open ones that have reached the length."""
        for hypothesis in self.open[number]:
            if len(hypothesis[0]) == self.lengths[number]:
                self._finish(number, hypothesis, False)
        return self.finished[number]
