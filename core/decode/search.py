"""The likeliest continuation of many prompts: greedy decoding or beam search."""

from __future__ import annotations

from dataclasses import replace

from ..config import SampleConfig
from ..divided import Unit, divided, processes
from ..model.sequence_model import SequenceModel
from ..protocols import Sequence, Tokenizer
from .batch_decoder import Decoder
from .beam import beam_search
from .sampling import as_unit, from_unit

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
        rows = min(GREEDY_ROWS, len(fitting))
        shares = [fitting[rank :: processes()] for rank in range(min(processes(), len(fitting)))]
        units = (
            {"prompts": [as_unit(prompts[n]) for n in share], "rows": rows, "end": end}
            for share in shares
        )
        decoded = divided(decode_greedily, (model, tokenizer), units)
        for share, each in zip(shares, decoded, strict=True):
            for number, ids in zip(share, each["ids"], strict=True):
                found[number] = ids
    model.train(was_training)
    return found


def decode_greedily(
    model: SequenceModel, tokenizer: Tokenizer, prompts: list[Unit], rows: int, end: int | None
) -> Unit:
    """`ids` that continue each prompt, `rows` prompts at a time. prompts: of `as_unit`, not longer
    than the context."""
    context = model.config.context
    decoder = Decoder(model, tokenizer, SampleConfig(greedy=True), rows)
    sequences = list(map(from_unit, prompts))
    found: list[list[int]] = [[] for _ in sequences]
    waiting = list(reversed(range(len(sequences))))
    busy: dict[int, int] = {}

    def room(number: int) -> int:
        return context - (0 if model.has_encoder else len(sequences[number]))

    while waiting or busy:
        while waiting and decoder.free:
            number = waiting.pop()
            if room(number):
                busy[decoder.begin(sequences[number], room(number))] = number
        for row, new in decoder.step().items() if busy else ():
            number = busy[row]
            if new is not None:
                found[number].append(new[0])
            if new is None or new[0] == end or len(found[number]) >= room(number):
                decoder.end(row)
                del busy[row]
    return {"ids": found}
