"""`tfm probe`: what a model makes of its context, and how far architectures recall."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..core.errors import UsageError
from . import options as opt
from . import settings
from .render import loops_shown, say
from .study_options import study_options

ITEMS = 128  # windows, by default
# flags that only one of the two questions takes; all others serve both
OF_RUN = ("items", "split", "seed", "checkpoint")
OF_STUDY = (
    *("arch", "distance", "size", "settings", "tokens", "budget", "seeds", "lr_factors", "jobs"),
    *("cluster", "study", "resume"),
)


@click.command("probe", cls=opt.Command)
@opt.run_argument
@click.option(
    "--task",
    "part",
    metavar="TASK",
    help="Without RUN: train on recall, copy or induction. With RUN: its part, RUN:PART for short.",
)
@opt.option("--arch", metavar="NAME,NAME...", help="To train.  [default: transformer,lstm,cnn]")
@opt.option(
    "--distance",
    metavar="N,N...",
    help="Lengths of the items to answer, in tokens; training has all between.  "
    "[default: 64,128,256]",
)
@opt.option("--size", default="nano", show_default=True, help="nano, tiny, small, base, large.")
@opt.option(
    "--set",
    "settings",
    multiple=True,
    envvar="TFM_SET",
    metavar="SECTION.FIELD=VALUE",
    help="Set a field for all that is trained: model.layers=6, task.vocabulary=512.",
)
@opt.option(
    "--items",
    type=click.IntRange(1),
    default=ITEMS,
    show_default=True,
    metavar="N",
    help="Held-out windows of RUN that are read, drawn at random.",
)
@opt.option("--split", help="Held-out split: valid or test.  [default: that of the final score]")
@opt.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of what is drawn at random from RUN's windows.",
)
@opt.checkpoint_option
@opt.runs_option
@study_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    run: str | None,
    part: str | None,
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure what RUN (the newest by default) makes of its context, on its held-out items:

    \b
    - the loss by the position in the context
    - how far back a token still moves the prediction
    - attention distance and entropy of each head
    - the loss without each layer and head, and with one head alone

    Or, with --task and no RUN, train architectures on generated items of many lengths, and
    measure at which distance they still answer:

    \b
        tfm probe --task recall --arch transformer,lstm,cnn --distance 64,128,256
    """
    trains = run is None and (part is not None or flags["resume"] is not None)
    for name in OF_RUN if trains else OF_STUDY:
        if settings.origin(ctx, name) == "flag":
            flag = f"--{'set' if name == 'settings' else name}"
            where = "with --task and no RUN" if trains else "for a RUN"
            raise UsageError(f"{flag}: not {where}; see tfm probe --help")
    if trains:
        from . import probe_study

        probe_study.run(ctx, {"task": part, **flags}, as_json, quiet)
        return
    _probe(opt.part_of(run, part), as_json, quiet, **flags)


for param in command.params:
    if param.name == "seeds":
        param.default = 1  # the intervals are over held-out items, which all seeds share


def _probe(name: str | None, as_json: bool, quiet: bool, **flags: Any) -> None:
    from ..core.runs.catalogue import open_run

    if flags["plot"]:
        from ..core.chart_file import check_plot

        check_plot(Path(flags["plot"]))
    run = open_run(name, Path(flags["runs"]))
    run.check()
    split = flags["split"] or run.config["final_split"]
    sequences = run.heldout(split)

    from ..core.ops.device import pick_device, use_threads
    from ..core.probe.charts import charts
    from ..core.probe.report import findings
    from ..core.probe.sample import draw
    from .probe_text import report
    from .study_report import show_charts

    use_threads(0)
    model = run.load_model(flags["checkpoint"], pick_device(flags["device"]))
    with loops_shown(quiet):
        sample = draw(model, run.tokenizer(), sequences, flags["items"], flags["seed"])
        found = findings(sample, flags["seed"])
    if not found.attention:
        say("no attention: distances, entropies and heads are left out", quiet)
    record = found.record(
        run=run.title,
        task=run.config["task"],
        step=run.checkpoint(flags["checkpoint"]).step,
        split=split,
        seed=flags["seed"],
    )
    drawn = charts(found)
    click.echo(json.dumps(record) if as_json else report(record, found))
    show_charts(drawn, flags["plot"], as_json, quiet)
