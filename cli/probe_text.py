"""What `tfm probe` prints of a run: its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .render import columns, printable

if TYPE_CHECKING:
    from ..core.probe.report import Findings


def report(about: dict[str, Any], found: Findings) -> str:
    """The tables. about: the JSON object of the findings."""
    sample = found.sample
    head = (
        f"{printable(about['run'])}, step {about['step']:,}: {len(sample):,} of {sample.total:,} "
        f"held-out windows of at most {about['context']:,} tokens\n"
        f"loss {found.loss.text(4)} nats per token (95 % intervals over windows)"
    )
    tables = (position_table(found), influence_table(found), layer_table(found))
    return "\n\n".join([head, *tables])


def position_table(found: Findings) -> str:
    rows = [["tokens before", "loss (nats)", "tokens predicted"]]
    for point in found.positions:
        first, last = f"{point.first:,}", f"{point.last:,}"
        span = first if first == last else f"{first}-{last}"
        rows.append([span, point.loss.text(4), f"{point.tokens:,}"])
    return columns(rows, numbers=True)


def influence_table(found: Findings) -> str:
    rows = [["replaced token", "KL (nats)", "windows"]]
    for each in found.influences.by_distance:
        rows.append([f"{each.distance:,} back", each.kl.text(), f"{each.windows:,}"])
    floor = f"noise floor: {found.influences.floor:.2g} nats, the rounding of float32"
    return f"{columns(rows, numbers=True)}\n{floor}"


def layer_table(found: Findings) -> str:
    """A row for each layer as a whole, and for each of its heads."""
    rows = [["", "distance", "entropy", "first token", "loss when off", "loss when alone"]]
    for name, layer in found.ablation.layers.items():
        rows.append([name, "", "", "", f"+{layer.off.text()}", ""])
        if name not in found.attention:
            continue
        attention = found.attention[name]
        for number, (head, loss) in enumerate(zip(attention.heads, layer.heads, strict=True)):
            alone = "" if loss.alone is None else f"+{loss.alone.text()}"
            rows.append([f"  head {number}", *_of_head(head), f"+{loss.off.text()}", alone])
        rows.append(["  even attention", *_of_head(attention.even), "", ""])
    used = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    return columns([[row[column] for column in used] for row in rows], numbers=True)


def _of_head(head: Any) -> list[str]:
    distance = "-" if head.distance is None else f"{head.distance.value:.1f}"
    return [distance, f"{head.entropy.value:.2f}", f"{head.first.value:.0%}"]
