"""The models of `tfm scale`: a transformer and LSTMs at a grid of sizes, their runs, and the plan.

Sizes are counted in the parameters of the blocks: without embeddings and head, as in Kaplan et al.
2020, so that the count of small models is not that of their vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from ctypes import CDLL
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConfigError
from ..model.sequence_model import on_meta
from ..train.request import Request
from .comparison import Asked, runs_of
from .contestant import Contestant
from .plan import Load, Shapes, Speed, measured_speed, overrun, tokens_within
from .study import Job
from .tuning import Rate, score_jobs

LAYERS_PER_ROOT_WIDTH = 0.57  # layers of a width: 2 of 12, 3 of 32, 5 of 72
HEAD_WIDTH = 32  # about
DEPTHS = (1, 2, 4, 8)  # of the stacked LSTM; the widened one has WIDENED_LAYERS
WIDENED_LAYERS = 2
FEWER = (3, 9)  # the transformer also trains on the tokens of a run divided by these
FIRST_GUESS = 1_000_000  # tokens of a run, until speeds are measured
USUAL_FLOPS = 2e10  # a second, of a small model, where nothing is measured: for the time left
STEP_WIDTH, LARGEST = 4, 4  # of the widths among which the best one is sought, up to 4 times
FAMILIES = TRANSFORMER, WIDER, DEEPER = "transformer", "LSTM, wider", "LSTM, deeper"


def layers_of(width: int) -> int:
    """The layers of a transformer of this width, which grow with its square root."""
    return max(1, round(LAYERS_PER_ROOT_WIDTH * math.sqrt(width)))


def shapes_of(text: str) -> list[tuple[int, int]]:
    """(layers, width) of each size in a list such as 12,20,4x32. ConfigError for fewer than three
    sizes, or others than these."""
    found = []
    for part in text.split(","):
        layers, _, width = part.strip().rpartition("x")
        try:
            shape = int(layers or layers_of(int(width))), int(width)
        except ValueError:
            shape = 0, 0
        if min(shape) < 1 or shape[1] % 2:
            raise ConfigError(
                f"--sizes {text}: must be even widths such as 12,20,32, or LAYERSxWIDTH"
            )
        found.append(shape)
    sizes = [layers * width**2 for layers, width in found]
    if len(set(sizes)) < max(3, len(sizes)):
        raise ConfigError(f"--sizes {text}: a law needs at least 3 sizes, each once")
    return sorted(found, key=lambda shape: shape[0] * shape[1] ** 2)


def transformer(layers: int, width: int) -> Contestant:
    """A transformer with as many heads as make them about HEAD_WIDTH wide."""
    fit = [heads for heads in range(1, width + 1) if width % (2 * heads) == 0]
    heads = min(fit, key=lambda heads: abs(math.log(width / heads / HEAD_WIDTH)))
    model = {"layers": layers, "width": width, "heads": heads}
    return Contestant(f"transformer {layers}x{width}", "transformer", {"model": model})


def lstm(layers: int, parameters: float) -> Contestant:
    """An LSTM with about so many parameters: a layer of width w has 8 w^2."""
    width = max(2, round(math.sqrt(parameters / (8 * layers))))
    return _lstm(layers, width)


def _lstm(layers: int, width: int) -> Contestant:
    return Contestant(
        f"lstm {layers}x{width}", "lstm", {"model": {"layers": layers, "width": width}}
    )


def families(shapes: Sequence[tuple[int, int]]) -> dict[str, list[Contestant]]:
    """The models of each family, in order of size. shapes: (layers, width) of the transformers;
    LSTMs are about as large: widened ones as each of them, stacked ones up to the largest."""
    sizes = [12 * layers * width**2 for layers, width in shapes]
    deeper = [_lstm(depth, _stacked_width(sizes[-1])) for depth in DEPTHS]
    wider = {each.name: each for each in [lstm(WIDENED_LAYERS, size) for size in sizes]}
    both = next(each for each in deeper if each.sets["model"]["layers"] == WIDENED_LAYERS)
    wider[both.name] = both
    return {
        TRANSFORMER: [transformer(*shape) for shape in shapes],
        WIDER: sorted(wider.values(), key=lambda each: int(str(each.sets["model"]["width"]))),
        DEEPER: deeper,
    }


def _stacked_width(largest: float) -> int:
    return max(2, round(math.sqrt(largest / (8 * DEPTHS[-1]))))


@dataclass(frozen=True)
class Counted:
    """The size of a model. parameters: of its blocks; all_parameters: with embeddings and head."""

    layers: int
    width: int
    parameters: int
    all_parameters: int
    flops_per_token: float


def counted(shapes: Shapes, contestant: Contestant) -> Counted:
    config = shapes.model(contestant)
    model = on_meta(config)
    return Counted(
        config.layers,
        config.width,
        model.blocks_parameter_count(),
        model.parameter_count(),
        model.flops_per_token(),
    )


@dataclass(frozen=True)
class Plan:
    """What `tfm scale` trains. contestants: by name, settled (`Shapes.settled`); families: names of
    contestants; sizes: by contestant; candidates: the sizes of transformers among which the best
    one for a larger compute is sought; tokens: of a run; data_tokens: about as many as the training
    data has; unit, lossless: of the losses; part: of the held-out items that they are of."""

    contestants: Mapping[str, Contestant]
    families: Mapping[str, Sequence[str]]
    sizes: Mapping[str, Counted]
    candidates: Sequence[Counted]
    tokens: int
    factors: Sequence[float]
    seeds: int
    speeds: Mapping[str, float]  # tokens per second, about
    data_tokens: float
    unit: str
    lossless: bool
    part: float = 1.0

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Plan:
        changed = {
            "contestants": {k: Contestant(**v) for k, v in record["contestants"].items()},
            "sizes": {k: Counted(**v) for k, v in record["sizes"].items()},
            "candidates": [Counted(**each) for each in record["candidates"]],
        }
        return cls(**{**record, **changed})

    def everyone(self) -> list[Contestant]:
        """The models, those first that take the longest: the last ones to finish are then short."""
        by_work = sorted(self.sizes, key=lambda name: -self.sizes[name].flops_per_token)
        return [self.contestants[name] for name in by_work]

    def numbers_of_tokens(self, name: str) -> list[int]:
        """The tokens of the runs of a contestant, the most first."""
        fewer = FEWER if name in self.families[TRANSFORMER] else ()
        return [self.tokens, *(max(1, self.tokens // divisor) for divisor in fewer)]

    def jobs(self, base: Request, rates: Mapping[str, Rate]) -> list[Job]:
        """The runs at the learning rates of the sweep."""
        found = score_jobs(self.everyone(), base, rates, self.seeds, self.tokens)
        some = [self.contestants[name] for name in self.families[TRANSFORMER]]
        for divisor in FEWER:
            fewer = max(1, self.tokens // divisor)
            found += score_jobs(some, base, rates, self.seeds, fewer, f"fewer-{divisor}")
        return found

    def expected(self) -> dict[str, list[float]]:
        """By contestant, the seconds that each of its runs is expected to train."""
        swept = len(self.factors) if len(self.factors) > 1 else 0
        found = {}
        for name, speed in self.speeds.items():
            most, *fewer = self.numbers_of_tokens(name)
            found[name] = runs_of(most / speed, swept, self.seeds)
            found[name] += [tokens / speed for tokens in fewer * self.seeds]
        return found

    def seconds(self, job: Job) -> float:
        """The seconds that a run is expected to train."""
        assert job.request.tokens is not None
        return job.request.tokens / self.speeds[job.about["contestant"]]


def planned(
    shapes: Shapes,
    models: Mapping[str, Sequence[Contestant]],
    asked: Asked,
    further: float,
    library: CDLL | None,
    note: Callable[[str], None],
) -> Plan:
    """The plan of models by family. Without a number of tokens, measures the speed of all models
    and takes the tokens for which there is time. further: tokens of one more run of the largest
    transformer, over those of a run, for which there must be time too."""
    everyone = {each.name: each for members in models.values() for each in members}
    sizes = {name: counted(shapes, each) for name, each in everyone.items()}
    names = {family: [each.name for each in members] for family, members in models.items()}
    largest = names[TRANSFORMER][-1]

    def settled(tokens: int) -> dict[str, Contestant]:
        """All with one batch, that of the shortest runs: losses differ by size and tokens alone."""
        fewest = max(1, tokens // FEWER[-1])
        return {name: shapes.settled(each, fewest) for name, each in everyone.items()}

    def plan(tokens: int, speeds: Mapping[str, float], part: float = 1.0) -> Plan:
        return Plan(
            settled(tokens),
            names,
            sizes,
            candidates(shapes, sizes[largest].width),
            tokens,
            asked.factors,
            asked.seeds,
            speeds,
            _data_tokens(shapes),
            shapes.prepared.task.unit,
            shapes.prepared.tokenizer.lossless,
            part,
        )

    if asked.tokens is not None:
        speeds = {name: USUAL_FLOPS / size.flops_per_token for name, size in sizes.items()}
        return plan(asked.tokens, speeds)
    measured: dict[str, Speed] = {}
    for name, each in settled(FIRST_GUESS).items():
        note(f"measuring {name} ...")
        measured[name] = measured_speed(shapes, each, FIRST_GUESS, asked.threads, library)
    speeds = {name: speed.tokens_per_second for name, speed in measured.items()}
    loads = [
        Load(sum(seconds) * speeds[name] / FIRST_GUESS, len(seconds), *_pace(measured[name]))
        for name, seconds in plan(FIRST_GUESS, speeds).expected().items()
    ]
    if further:  # alone at the end, while other processes have nothing to do
        loads.append(Load(further * asked.processes, 1, *_pace(measured[largest])))
    tokens, part = tokens_within(asked.seconds(), loads, asked.processes, shapes.scored_tokens)
    found = plan(tokens, speeds, part)
    if said := overrun(found.expected(), asked.seconds(), asked.processes):
        note(said)
    return found


def _pace(speed: Speed) -> tuple[float, int]:
    return speed.tokens_per_second, speed.step_tokens


def _data_tokens(shapes: Shapes) -> float:
    """About as many tokens as the training data has, by those of the held-out items."""
    prepared = shapes.prepared
    held = prepared.held[prepared.final_split].size
    return shapes.heldout_tokens * prepared.train.size / max(held, 1)


def candidates(shapes: Shapes, width: int) -> list[Counted]:
    """Transformers up to LARGEST times a width, with layers as `layers_of`."""
    widths = range(2 * STEP_WIDTH, LARGEST * width + 1, STEP_WIDTH)
    found = [counted(shapes, transformer(layers_of(each), each)) for each in widths]
    return sorted(found, key=lambda each: each.parameters)
