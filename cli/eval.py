"""`tfm eval`: a run's scores on held-out or other data, next to baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import UsageError
from . import kernels
from . import options as opt
from .launch import nproc_option
from .predictions import (
    check_predictions,
    confusion,
    confusion_text,
    predictions_option,
    write_predictions,
)
from .processes import QUANTIZED_ROWS, Team, together
from .render import columns, loops_shown, printable, say

if TYPE_CHECKING:
    from ..core.task import Task


@click.command("eval", cls=opt.EvalCommand)
@opt.run_argument
@opt.part_option
@opt.option("--data", multiple=True, metavar="PATH", help="Data instead of held-out data.")
@opt.option("--column", help="The column of a table with the items.  [default: the run's]")
@opt.data_holdout_option
@opt.option("--split", help="Held-out split: valid or test.  [default: that of the final score]")
@opt.option(
    "--stride",
    type=click.IntRange(1),
    metavar="N",
    help="Slide the scored window by N tokens or points.  [default: windows do not overlap]",
)
@opt.option(
    "--as-coded", is_flag=True, help="Score as `tfm compress` codes: the exact compressed size."
)
@opt.option(
    "--protocol", metavar="NAME", help="Evaluation protocol of the task: last, rolling (series)."
)
@opt.option("--beam", type=click.IntRange(1), metavar="N", help="Predict pairs by beam search.")
@opt.option(
    "--length-penalty",
    type=opt.Real(),
    metavar="A",
    help="With --beam: score by log p / ((5 + length) / 6)^A.  [default: 0]",
)
@predictions_option
@opt.checkpoint_option
@opt.dtype_option("float32")
@nproc_option("Score")
@opt.device_option
@opt.runs_option
@opt.json_option
def command(nproc: int, device: str, **flags: Any) -> None:
    """Score RUN (the newest by default) on its held-out data, next to baselines."""
    check_predictions(flags["predictions"])
    if flags["data"] and flags["split"] is not None:
        raise UsageError("--data and --split exclude each other: --data is scored as a whole")
    if flags["holdout"] is not None and (flags["as_coded"] or not flags["data"]):
        raise UsageError("--holdout: a part of --data; not with --as-coded")
    with together(nproc, device) as team:
        _evaluate(team, **flags)


def _evaluate(
    team: Team,
    run: str | None,
    part: str | None,
    data: tuple[str, ...],
    column: str | None,
    holdout: float | None,
    split: str | None,
    stride: int | None,
    as_coded: bool,
    protocol: str | None,
    beam: int | None,
    length_penalty: float | None,
    predictions: str | None,
    checkpoint: str,
    dtype: str | None,
    runs: str,
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """`tfm eval` in the leading process, from the command's flags."""
    from ..core.runs.catalogue import open_run

    opened = open_run(opt.part_of(run, part), Path(runs), whole=True)
    opened.check()
    task = opened.task()
    evaluation = opt.task_options_of(task.EvalOptions, "eval", flags)
    if beam or length_penalty is not None:
        protocol = _beam_protocol(task, protocol, beam, length_penalty)

    kernels.compile_in_background()

    from ..core.data.source import Source
    from ..core.ops.device import pick_device, use_threads
    from ..core.score.report import report
    from ..core.train.prepare import training_items

    def note(text: str) -> None:
        say(text, quiet)

    use_threads(0)
    kernels.use_kernels()
    team.tell(opened, checkpoint, kernels=True, dtype=dtype or "float32")
    model = opened.load_model(checkpoint, pick_device(team.device))
    if dtype not in (None, "float32"):
        from ..core.decode.quantized_linear import with_weights_in

        model = with_weights_in(model, dtype, rows=QUANTIZED_ROWS)
    tokenizer = opened.tokenizer()
    final = opened.config["final_split"]
    floor: dict[str, float] | None = None
    sequences: Any
    if data:
        split = "data"
        items = None if as_coded else task.items(opened.source_like(data, column))
        description = task.describe(items) if items is not None else None
        for line in description.lines if description else ():
            note(line)
        if items is not None:
            items = task.conform(items, tokenizer, note)
            items = items if holdout is None else task.split(items, holdout)[1]
        sequences = [] if items is None else list(task.sequences(items, tokenizer))
    else:
        split = split or final
        sequences = opened.heldout(split)
        same = protocol in (None, "last") and (stride is None or not task.slides)
        # the stored baselines are for this split and protocol
        if split == final and same and not opened.config.get("quick_floor"):
            floor = opened.config["floor"]
    if as_coded:
        from ..core.score import arithmetic_coding

        of_bytes = task.byte_tokenizer(tokenizer)
        if of_bytes is None:
            raise UsageError(f"--as-coded: tfm compress does not support --task {task.name}")
        if stride is not None:
            raise UsageError("--stride: --as-coded sets the stride itself")
        if data:
            sequences = [
                arithmetic_coding.item(of_bytes, p.read_bytes())
                for p in Source(data).files(archives=False)
            ]
        sequences = [part for s in sequences for part in arithmetic_coding.segments(s)]
        stride = arithmetic_coding.stride(model.config.context)
    matrix = None
    with team.lead(model, tokenizer, task), loops_shown(quiet):
        scores = report(
            task,
            tokenizer,
            model,
            sequences,
            protocol=protocol,
            stride=stride,
            floor=floor,
            training=lambda: training_items(opened, task),
            note=note,
            evaluation=evaluation,
            run=opened.title,
            step=opened.checkpoint(checkpoint).step,
            split=split,
        )
        if predictions is not None:
            found = list(task.predict(model, tokenizer, sequences))
            names = [s.side.get("id", str(number)) for number, s in enumerate(sequences, 1)]
            write_predictions(Path(predictions), names, found)
            scores["confusion"] = matrix = confusion(found)
    if predictions == "-":
        say(json.dumps(scores) if as_json else table(scores, task.headline), quiet)
        return
    click.echo(json.dumps(scores) if as_json else table(scores, task.headline))
    if matrix is not None and not as_json:
        click.echo("\n" + confusion_text(matrix))


def _beam_protocol(
    task: Task, protocol: str | None, beam: int | None, length_penalty: float | None
) -> str:
    """The protocol that --beam and --length-penalty name: beam-4-0.6."""
    if protocol is not None:
        raise UsageError("--protocol and --beam exclude each other: --beam 4 is --protocol beam-4")
    if beam is None:
        raise UsageError("--length-penalty: needs --beam")
    if not task.pairs:
        raise UsageError(f"--beam: the items of --task {task.name} have no source")
    alpha = f"{length_penalty or 0:.6f}".rstrip("0").rstrip(".")
    return f"beam-{beam}" if float(alpha) == 0 else f"beam-{beam}-{alpha}"


def table(scores: dict[str, Any], headline: tuple[str, ...] = ()) -> str:
    """The scores as text: the main metrics next to those of the baselines, then those derived from
    them, the rest, and the headline metrics of each group. Of several domains: those of each."""
    if "parts" in scores:
        whole = {k: v for k, v in scores.items() if k != "parts"} | {"floor": None}
        if whole[f"bits_per_{scores['unit']}"] is None:  # of parts that are not all lossless
            kept = [[k, _number(whole[k])] for k in ("step", "split", "tokens", "nll_per_token")]
            each = scores["parts"]
            first = f"{scores['run']}\n{columns(kept)}\n\n"
        else:
            each, first = {"all": whole, **scores["parts"]}, ""
        return first + "\n\n".join(
            f"{name}\n{table({'run': '', **own})}" for name, own in each.items()
        )
    unit = scores["unit"]
    floor = scores["floor"] or {}
    metric_of = {
        key: max((name for name in scores if key.endswith(f"_{name}")), key=len, default="")
        for key in floor
    }
    named = [name for name in scores if name in metric_of.values()]
    if named:  # baselines with several metrics each, such as seasonal_naive_mase
        labels = dict.fromkeys(key.removesuffix(f"_{m}") for key, m in metric_of.items())
        derived = [name for name in named if any(name.startswith(f"{m}_") for m in named)]
        blocks = []  # scores, then those derived from them, such as mase_ratio from mase
        for part in ([name for name in named if name not in derived], derived):
            rows = [["", *part], [scores["run"], *(_number(scores[name]) for name in part)]]
            for label in labels:
                rows.append([label, *(_number(floor.get(f"{label}_{name}")) for name in part)])
            blocks += [columns(rows, numbers=True)] if part else []
        head = "\n\n".join(blocks)
    else:
        rows = [["", f"bits per {unit}"], [scores["run"], _number(scores[f"bits_per_{unit}"])]]
        rows += [[name, _number(value)] for name, value in floor.items()]
        head = columns(rows, numbers=True)
    shown = {"schema", "task", "run", "floor", f"bits_per_{unit}", "unit", "confusion"}
    groups = [value for value in scores.values() if isinstance(value, list)]
    rest = [
        [name, _number(value)]
        for name, value in scores.items()
        if name not in shown and not isinstance(value, list)
    ]
    return "\n\n".join([head, columns(rest), *(_groups(each, headline) for each in groups)])


def _groups(rows: list[dict[str, Any]], headline: tuple[str, ...]) -> str:
    """A row a group: its name, its number of windows, and every metric that ends in a headline."""
    first = list(rows[0])[:2]
    names = [n for n in rows[0] if n in first or n.endswith(headline)]
    cells = [[printable(_number(row[name])) for name in names] for row in rows]
    return columns([[name.replace("_", " ") for name in names], *cells], numbers=True)


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        if abs(value) >= 1e15:
            return f"{value:.3g}"
        return f"{value:,.0f}" if abs(value) >= 1e5 or value == int(value) else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
