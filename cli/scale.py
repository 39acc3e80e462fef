"""`tfm scale`: loss against size, data and compute, and what a larger budget would give."""

from __future__ import annotations

import json
from dataclasses import replace
from shlex import join
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import UsageError
from . import kernels
from . import options as opt
from .study_options import data_options, study_options
from .study_report import show_charts

if TYPE_CHECKING:
    from ..core.study.findings import Findings, Prediction
    from ..core.study.sizes import Plan
    from ..core.train.request import Request
    from .studying import Session

COUNTED = "of the blocks, without embeddings and head"
SEEDS = 2  # by default: the sizes and numbers of tokens are many runs already


@click.command("scale", cls=opt.TaskCommand)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@data_options
@opt.option(
    "--sizes",
    metavar="W,LxW...",
    default="12,20,32,48,80",
    show_default=True,
    help="Widths of the transformer, or LAYERSxWIDTH; at least three.",
)
@opt.option(
    "--predict",
    type=opt.Real(1, min_open=True),
    default=4.0,
    show_default=True,
    metavar="FACTOR",
    help="Predict the best size and its loss for FACTOR times the compute of the largest run.",
)
@opt.option("--check", is_flag=True, help="Train what was predicted, and compare.")
@study_options
@click.pass_context
def command(ctx: click.Context, /, quiet: bool, as_json: bool, **flags: Any) -> None:
    """Fit scaling laws on FILEs (or on --data): train transformers of growing sizes, and LSTMs of
    the same sizes, widened (2 layers) and stacked (1 to 8 layers), on equal tokens; the transformer
    also on a third and a ninth of them.

    Prints the runs, the slope of each family, the law L(N, D) = E + A / N^alpha + B / D^beta of the
    transformer with 95 % intervals, and the best size and its loss for a larger compute.
    """
    from ..core.study.sizes import shapes_of

    shapes_of(flags["sizes"])
    from .studying import session

    with session(ctx, "scale", flags, quiet) as opened:
        found, record = _study(opened)
    from .scale_tables import charts, tables

    click.echo(json.dumps(record) if as_json else tables(found, record))
    show_charts(charts(found, record), flags["plot"], as_json, quiet)


next(param for param in command.params if param.name == "seeds").default = SEEDS


def _study(opened: Session) -> tuple[Findings, dict[str, Any]]:
    """Trains all runs. Returns what they say, and the object of --json."""
    from ..core.study.findings import findings, predicted_job
    from ..core.study.sizes import Plan
    from ..core.study.study import finite
    from ..core.study.tuning import tuned

    plan = Plan.from_record(opened.study.fact("plan", lambda: _planned(opened)))
    opened.note(
        f"{plan.tokens:,} tokens a run at most, {plan.tokens / max(plan.data_tokens, 1):.2g} times "
        "the training data"
    )
    opened.progress.expect(plan.expected())
    everyone = plan.everyone()
    request = replace(opened.request, final_part=plan.part)
    rates, _ = tuned(
        everyone, request, plan.factors, plan.tokens, lambda jobs: opened.train(jobs, plan.seconds)
    )
    results = opened.train(plan.jobs(request, rates), plan.seconds)
    found = findings(plan, results, rates, opened.flags["predict"])
    check = None
    if opened.flags["check"] and found.prediction is not None:
        check = _check(opened, plan, found.prediction, request)
    record = {
        "schema": 1,
        "study": str(opened.study.folder),
        "loss": f"bits per {plan.unit}" if plan.lossless else "nats per token",
        "counted": COUNTED,
        "learning_rates": _rule(plan),
        "tokens": max(run.tokens for run in found.runs),
        "data_tokens": plan.data_tokens,
        "part": plan.part,
        "seeds": plan.seeds,
        "fewest_steps": min(result.steps for result in results),
        "at_edge": [name for name, rate in rates.items() if rate.edge],
        **found.record(),
        "command": None
        if found.prediction is None
        else _command(predicted_job(plan, request, found.prediction).request),
        "check": check,
    }
    return found, finite(record)


def _planned(opened: Session) -> dict[str, Any]:
    from ..core.study.sizes import families, planned, shapes_of

    for name in ("layers", "width", "heads"):
        if name in opened.request.sets["model"]:
            raise UsageError(f"--set model.{name}: tfm scale decides it; use --sizes")
    further = opened.flags["predict"] if opened.flags["check"] else 0.0
    plan = planned(
        opened.shapes(),
        families(shapes_of(opened.flags["sizes"])),
        opened.asked(),
        further,
        kernels.compiled(),
        opened.note,
    )
    return plan.record()


def _rule(plan: Plan) -> str:
    factors = ", ".join(f"{factor:g}" for factor in plan.factors)
    if len(plan.factors) == 1:
        return f"{factors} times those of the architecture, for all sizes"
    return (
        f"of each model the best of {factors} times those of its architecture, and of those beyond "
        "while the last is the best, by the run of seed 0"
    )


def _check(opened: Session, plan: Plan, prediction: Prediction, request: Request) -> dict[str, Any]:
    """Trains the predicted size, and compares."""
    from ..core.study.findings import predicted_job
    from ..core.study.summary import score

    opened.note(
        f"checking the prediction: {prediction.size.parameters:,} parameters, "
        f"{prediction.tokens:,} tokens, about {prediction.seconds:,.0f} s"
    )
    job = predicted_job(plan, request, prediction)
    (result,) = opened.train([job], lambda _: prediction.seconds)
    loss, expected = score(result), prediction.best.loss
    assert expected.low is not None and expected.high is not None
    return {
        "loss": loss,
        "inside": loss is not None and expected.low <= loss <= expected.high,
        "tokens": result.tokens,
        "flops": result.flops_per_token * result.tokens,
        "seconds": result.seconds,
        "run": result.run,
    }


def _command(request: Request) -> str:
    """The `tfm train` that trains what a study would."""
    words = ["tfm", "train"]
    for name in ("task", "column", "holdout", "tokenizer", "context", "device"):
        if getattr(request, name) not in (None, "auto"):
            words += [f"--{name}", str(getattr(request, name))]
    for name in ("data", "valid", "test"):
        for path in getattr(request, name):
            words += [f"--{name}", path]
    words += ["--tokens", str(request.tokens)]
    for section, fields in {"task": request.task_options, **request.sets}.items():
        for name, value in sorted(fields.items()):
            words += ["--set", f"{section}.{name}={value}"]
    return join(words)
