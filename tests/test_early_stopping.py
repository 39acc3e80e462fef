"""What ends a training early and which checkpoint is best; chosen on one half of what is held out,
scored on the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Tfm, Trained

from tfm.core.config import TrainConfig
from tfm.core.errors import UsageError
from tfm.core.runs.run import Run
from tfm.core.train.early_stopping import Bound, EarlyStopping, bound_of, check_until


def seen(config: TrainConfig, *nats: float) -> EarlyStopping:
    stopping = EarlyStopping()
    for step, value in enumerate(nats, 1):
        stopping.see(step, value, {"nats_per_token": value, "bits_per_byte": value * 2}, config)
    return stopping


@pytest.mark.parametrize(
    ("config", "nats", "best_step", "over"),
    [
        (dict(patience=2), (3, 2, 1), 3, False),
        (dict(patience=2), (3, 2, 2.5, 1, 2), 4, False),
        (dict(patience=2), (3, 2, 2.5, 2), 2, True),
        (dict(patience=2), (3, float("nan"), float("nan")), 1, True),
        (dict(), (3, 4, 5, 6, 7), 1, False),
        (dict(until="bits_per_byte<4"), (3, 2), 2, False),
        (dict(until="bits_per_byte<4"), (3, 1.9), 2, True),
        (dict(until="nats_per_token < 2", patience=1), (3, 4), 1, True),
        (dict(until="plateau"), (3, 4, 4), 1, False),
        (dict(until="plateau"), (3, 4, 4, 4), 1, True),
        (dict(until="plateau", patience=1), (3, 4), 1, True),
    ],
)
def test_when_it_is_over(
    config: dict[str, object], nats: tuple[float, ...], best_step: int, over: bool
) -> None:
    made = TrainConfig(**config)  # type: ignore[arg-type]
    stopping = seen(made, *nats)
    assert (stopping.best_step, stopping.is_over(made)) == (best_step, over)
    by_patience = made.until != "plateau" and made.patience and stopping.waited >= made.patience
    assert stopping.reached == bool(made.until and over and not by_patience)


def test_a_goal_is_a_bound_on_what_is_measured() -> None:
    assert bound_of("plateau") is None
    assert bound_of(" bits_per_byte < 1.6") == Bound("bits_per_byte", 1.6, above=False)
    assert bound_of("accuracy>0.9") == Bound("accuracy", 0.9, above=True)
    for wrong in ("", "best", "bits_per_byte=1", "bits_per_byte<x", "<3", "a<1e400"):
        with pytest.raises(UsageError, match="plateau, or METRIC<NUMBER"):
            bound_of(wrong)
    check_until("nats_per_token<3", "byte", lossless=False, measures={})
    with pytest.raises(UsageError, match="measures nats_per_token$"):
        check_until("bits_per_byte<3", "byte", lossless=False, measures={})
    with pytest.raises(UsageError, match="measures bits_per_dim, nats_per_token$"):
        check_until("bits_per_byte<3", "dim", lossless=True, measures={})
    check_until("accuracy>0.9", "dim", lossless=True, measures={"accuracy": True})
    for wrong, advice in (("accuracy<0.9", "write accuracy>NUMBER"), ("mase>1", "write mase<")):
        with pytest.raises(UsageError, match=advice):
            measures = {"accuracy": True, "mase": False}
            check_until(wrong, "dim", lossless=True, measures=measures)


def training(text: Path, *more: object) -> tuple[object, ...]:
    data = ("--task", "text", "--data", text, "--tokenizer", "byte", "--size", "nano")
    return ("train", *data, "--set", "train.batch=8", "--json", *more)


def test_patience_chooses_on_one_half_and_reports_on_the_other(tfm: Tfm, text: Path) -> None:
    """Steps so long that it gets worse at once."""
    steps = ("--steps", 40, "--set", "train.eval_every=2", "--set", "train.warmup=0")
    long = ("--set", "train.lr=5", "--set", "train.adam_lr=1")
    told = tfm(*training(text, *steps, *long, "--patience", 2, "--save-every", 1, "--run", "run"))
    scores = told.json()
    assert scores["ended_by"] == "patience" and scores["step"] < 40
    best = scores["best_step"]
    assert scores["step"] >= best + 4 and scores["split"] == "report"
    assert "(the half not used for early stopping)" in told.err and "no improvement" in told.err
    run = Run(tfm.folder / "run")
    assert run.status()["state"] == "done"
    last = scores["step"]
    assert {c.step for c in run.checkpoints()} == {best, last - 1, last}
    evaluated = {e["step"]: e["nats_per_token"] for e in run.log() if e.get("event") == "eval"}
    assert min(evaluated, key=lambda step: evaluated[step]) == best
    halves = {split: [s.side["byte"] for s in run.heldout(split)] for split in ("valid", "report")}
    assert abs(sum(halves["valid"]) - sum(halves["report"])) <= 4
    assert sum(halves["report"]) == scores["units"]
    chosen = tfm("eval", "run", "--checkpoint", "best", "--json").json()
    assert (chosen["step"], chosen["split"], chosen["units"]) == (best, "report", scores["units"])
    said = tfm.error("train", "--resume", "run")
    assert f"stopped early at step {last} of 40; go on with --patience 0 or --steps N" in said
    # without patience, or with as many steps as planned, it goes on from there to its end
    shutil.copytree(tfm.folder / "run", tfm.folder / "copy")
    more = tfm("train", "--resume", "run", "--patience", 0, "--json", "-q").json()
    assert (more["step"], more["ended_by"]) == (40, "steps")
    assert run.log()[-2]["step"] == 40 and Run(run.path).status()["state"] == "done"
    more = tfm("train", "--resume", "copy", "--steps", 40, "--json", "-q").json()
    assert last < more["step"] <= 40
    assert "done at step 40" in tfm.error("train", "--resume", "run", "--patience", 0)


def test_a_goal_that_is_not_reached_is_exit_code_5(tfm: Tfm, text: Path) -> None:
    missed = tfm(*training(text, "--steps", 2, "--until", "bits_per_byte<1", "-q"), code=5)
    assert missed.json()["reached"] is False
    assert missed.err == "Error: --until bits_per_byte<1: not reached at step 2\n"
    goal = ("--until", "bits_per_byte<7.9", "--set", "train.eval_every=1", "-q")
    met = tfm(*training(text, "--steps", 50, *goal)).json()
    assert met["reached"] and met["ended_by"] == "until" and met["step"] < 50
    assert "measures bits_per_byte" in tfm.error(
        *training(text, "--steps", 2, "--until", "bits_per_dim<1")
    )


def test_a_run_that_chose_nothing_has_no_best(tfm: Tfm, trained: Trained) -> None:
    error = tfm.error("eval", trained.path, "--checkpoint", "best")
    assert "--checkpoint best" in error and "--patience" in error
