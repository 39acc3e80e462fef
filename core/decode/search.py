"""The likeliest continuation of many prompts: greedy decoding or beam search."""

from __future__ import annotations

from dataclasses import replace

from ..config import SampleConfig
from ..model.sequence_model import SequenceModel
from ..protocols import Sequence, Tokenizer
from .batch_decoder import Decoder
from .beam import beam_search

GREEDY_ROWS = 64


def search_all(
    model: SequenceModel,
    tokenizer: Tokenizer,
    prompts: list[Sequence],
    config: SampleConfig,
    end: int | None,
) -> list[list[int]]:
    """For each prompt the ids of its continuation, the end token included, that fits the context:
    the best of `config.beam`, by greedy decoding if that is 1. Prompts of similar length are
    decoded together; one that is longer than the context has none."""
    context = model.config.context
    was_training = model.training
    model.eval()
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    fitting = [n for n in order if len(prompts[n]) <= context]
    found: list[list[int]] = [[] for _ in prompts]
    if config.beam > 1:
        config = replace(config, length=context)
        best = beam_search(model, tokenizer, [prompts[n] for n in fitting], config, end)
        for number, hypotheses in zip(fitting, best, strict=True):
            found[number] = list(hypotheses[0].ids) if hypotheses else []
    else:
        _decode_greedily(model, tokenizer, prompts, fitting, end, found)
    model.train(was_training)
    return found


def _decode_greedily(
    model: SequenceModel,
    tokenizer: Tokenizer,
    prompts: list[Sequence],
    numbers: list[int],
    end: int | None,
    found: list[list[int]],
) -> None:
    """Appends the ids of the prompts `numbers` to `found`."""
    context = model.config.context
    decoder = Decoder(model, tokenizer, SampleConfig(greedy=True), min(GREEDY_ROWS, len(numbers)))
    waiting = list(reversed(numbers))
    rows: dict[int, int] = {}

    def room(number: int) -> int:
        return context - (0 if model.has_encoder else len(prompts[number]))

    while waiting or rows:
        while waiting and decoder.free:
            number = waiting.pop()
            if room(number):
                rows[decoder.begin(prompts[number], room(number))] = number
        for row, new in decoder.step().items() if rows else ():
            number = rows[row]
            if new is not None:
                found[number].append(new[0])
            if new is None or new[0] == end or len(found[number]) >= room(number):
                decoder.end(row)
                del rows[row]
