"""Accuracy against distance: architectures trained on generated items of many lengths, and scored
on those of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..chart import Axis, Chart, Line
from ..errors import ConfigError
from ..protocols import Sequence as Tokens
from ..runs.run import Run
from ..study.comparison import Outcome
from ..task import Task
from .estimate import Estimate, share
from .predictions import right_answers
from .sample import draw

# of multi-query associative recall, 64 tokens have 4 pairs, 128 have 8 and 256 have 16, the grid of
# figure 2 of Arora et al. 2023 (Zoology, arXiv:2312.04927)
TOKENS_PER_PAIR = 16
TITLES = {
    "recall": "Attention recalls over longer distances",
    "copy": "Attention copies over longer distances",
    "induction": "Attention finds a pattern again over longer distances",
}


def options_at(task: str, distance: int) -> dict[str, int]:
    """The options of a generated task whose items have this length: tokens of an item of recall,
    letters of a question of copy and of induction. ConfigError for another task or an impossible
    length."""
    if task not in TITLES:
        raise ConfigError(f"--task {task}: without a RUN one of {', '.join(TITLES)}")
    if task != "recall":
        return {"min_length": distance, "max_length": distance}
    if distance % 2 or distance < 4:
        raise ConfigError(f"--distance {distance}: recall needs an even number, 4 or more")
    pairs = max(1, distance // TOKENS_PER_PAIR)
    return {"length": distance, "pairs": pairs, "min_length": distance}


def training_options(task: str, distances: Sequence[int]) -> dict[str, int]:
    """The options of items of many lengths, from the shortest distance to the longest: short items
    are learned first, and what is learned of them carries over to longer ones. ConfigError as
    `options_at`."""
    shortest, longest = (options_at(task, each) for each in (min(distances), max(distances)))
    return {**longest, "min_length": shortest["min_length"]}


@dataclass(frozen=True)
class Answers:
    """How well one architecture answers at one distance. accuracy: over the held-out items, the
    mean over seeds of each; None if a seed diverged; by_seed: of each that did not."""

    arch: str
    accuracy: Estimate | None
    by_seed: list[float]
    row: Mapping[str, Any]  # of `Outcome.rows`

    def record(self) -> dict[str, Any]:
        kept = ("parameters", "tokens", "tokens_per_second", "lr_factor", "lr_at_edge", "runs")
        return {
            "arch": self.arch,
            "accuracy": None if self.accuracy is None else self.accuracy.record(),
            "by_seed": self.by_seed,
            **{name: self.row[name] for name in kept},
        }


@dataclass(frozen=True)
class AtDistance:
    """The answers of all architectures at one distance. options: of the task; items: held-out ones;
    floor: the accuracies of trivial answers by name."""

    distance: int
    options: Mapping[str, int]
    items: int
    floor: Mapping[str, float]
    answers: list[Answers]

    @property
    def best_floor(self) -> float:
        return max(self.floor.values())

    def record(self) -> dict[str, Any]:
        return {
            "distance": self.distance,
            **self.options,
            "items": self.items,
            "floor": dict(self.floor),
            "architectures": [each.record() for each in self.answers],
        }


def at_distance(
    outcome: Outcome, folder: Path, distance: int, options: Mapping[str, int], device: torch.device
) -> AtDistance:
    """The accuracy of the runs of a comparison on held-out items of one length. folder: of the
    study; options: of the task at this distance. The floor is the most frequent answer, and what
    the task itself calls a guess."""
    answers, floor, items = [], dict[str, float](), 0
    scored = [result for result in outcome.results if result.about["role"] == "score"]
    for contestant, row in zip(outcome.comparison.contestants, outcome.rows(), strict=True):
        own = [result for result in scored if result.about["contestant"] == contestant.name]
        rights, count = [], np.zeros(0)
        for result in own:
            if result.status == "done":
                run = Run(folder / result.run)
                model, tokenizer = run.load_model("last", device).eval(), run.tokenizer()
                task, held = _held_out(run, options)
                sample = draw(model, tokenizer, held, len(held), 0)
                right, count, constant = right_answers(sample, task.end_token(tokenizer))
                rights.append(right)
                floor, items = {"constant": constant}, len(sample)
                known = task.window_floor(lambda: None, held, tokenizer, None, quick=True) or {}
                if "guess_accuracy" in known:
                    floor["guess"] = known["guess_accuracy"]
        accuracy = share(np.mean(rights, axis=0), count) if len(rights) == len(own) > 0 else None
        by_seed = [float(right.sum() / count.sum()) for right in rights]
        answers.append(Answers(contestant.arch, accuracy, by_seed, row))
    return AtDistance(distance, options, items, floor or {"constant": 0.0}, answers)


def _held_out(run: Run, options: Mapping[str, int]) -> tuple[Task, list[Tokens]]:
    """The run's task with other options, and the held-out items that it generates."""
    own = run.task()
    task = type(own)(replace(own.options, **options))
    _, held = task.split(task.items(task.default_source()), None)
    return task, list(task.sequences(held, run.tokenizer()))


# -- what is shown -------------------------------------------------------------------------------


def verdict(found: Sequence[AtDistance]) -> str:
    """The accuracies at the longest distance, and at the shortest where it differs."""
    last = found[-1]
    said = [f"At distance {last.distance}: {_accuracies(last)}, floor {last.best_floor:.2f}"]
    if len(found) > 1:
        said.append(f"at distance {found[0].distance}: {_accuracies(found[0])}")
    return f"{'; '.join(said)}. {_comparison(last)}"


def _accuracies(at: AtDistance) -> str:
    return ", ".join(
        f"{a.arch} {'diverged' if a.accuracy is None else f'{a.accuracy.value:.2f}'}"
        for a in at.answers
    )


def _comparison(at: AtDistance) -> str:
    """Which architectures are above the floor, and whether the first is better than the others."""
    above = [a.arch for a in at.answers if a.accuracy and a.accuracy.surely > at.best_floor]
    if not above:
        return "None is above the floor there."
    first, *others = at.answers
    said = f"Above the floor there: {', '.join(above)}."
    if first.accuracy is None or not others:
        return said
    low = first.accuracy.surely
    equal = [a.arch for a in others if a.accuracy is not None and _top(a.accuracy) >= low]
    if equal:
        return f"{said} {first.arch} is not better than {', '.join(equal)}."
    return f"{said} {first.arch} is better than all others."


def _top(estimate: Estimate) -> float:
    return estimate.value if estimate.high is None else estimate.high


def chart(task: str, found: Sequence[AtDistance]) -> Chart:
    """Accuracy against distance, a line for each architecture and one for the floor."""
    distances = [float(at.distance) for at in found]
    parts = []
    for number, answers in enumerate(found[0].answers):
        shown = [(at.distance, at.answers[number].accuracy) for at in found]
        there = [(float(d), e) for d, e in shown if e is not None]
        if not there:
            continue  # it diverged at all distances
        values = [e.value for _, e in there]
        low = [e.surely for _, e in there]
        high = [_top(e) for _, e in there]
        parts.append(Line(answers.arch, [d for d, _ in there], values, low, high, points=True))
    parts.append(Line("floor", distances, [at.best_floor for at in found], style="dashed"))
    x = Axis("distance (length of an item in tokens)", log=True)
    y = Axis("accuracy (share of held-out answers)")
    return Chart(TITLES[task], verdict(found), x, y, parts)
