"""The heart of `tfm view` in a terminal: the logit lens, attention and the next token."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from .render import curve, printable

if TYPE_CHECKING:
    from ..core.view.page import View

SHADES = " ░▒▓█"
LEVELS = "▁▂▃▄▅▆▇█"
CELL = 12  # columns of a cell of the lens
ROWS = 12  # of tokens with their losses
BARS = 10  # next tokens
STRONG = 6.0  # nats: the loss with the strongest shade
MARKS = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "␣"}


def show(view: View, item: str | None) -> None:
    """Prints the view on stdout, as wide as the terminal."""
    width = shutil.get_terminal_size().columns
    shown = Terminal(view, item, width, colour=sys.stdout.isatty())
    sys.stdout.write("\n".join(shown.lines()) + "\n")


class Terminal:
    """The lines of a view, at most `width` columns wide."""

    def __init__(self, view: View, item: str | None, width: int, colour: bool) -> None:
        """item: the item as a picture in characters, where there is one."""
        self.view, self.item, self.width, self.colour = view, item, width, colour
        self.data = view.data
        self.ids: list[int] = self.data["input"]["ids"]
        self.targets: list[int | None] = self.data["input"]["targets"]
        self.truth = "it wrote" if self.data["input"]["answered"] else "true next"

    def lines(self) -> list[str]:
        sections = (
            self.heading(),
            self.picture(),
            self.losses(),
            self.lens(),
            self.attention(),
            self.gates(),
            self.next(),
        )
        return "\n\n".join("\n".join(section) for section in sections if section).split("\n")

    # -- words -------------------------------------------------------------------------------

    def label(self, id: int | None, place: int | None = None) -> str:
        """An id as it can be seen; of a series its value at a place among the ids read."""
        if id is None:
            return "?"
        domain = self.data["domain"]
        at = None if place is None else place - 1
        if domain["form"] == "series" and at is not None and 0 <= at < len(domain["base"]):
            bin = id - domain["first_bin"]
            if 0 <= bin < len(domain["centres"]):
                step = domain["scale"][at] * domain["centres"][bin]
                return f"{domain['base'][at] + step:.4g}"
        text = str(self.data["labels"].get(str(id), f"#{id}"))
        inner = text.strip(" ")
        before = text[: len(text) - len(text.lstrip(" "))]
        after = text[len(before) + len(inner) :]
        shown = "".join(MARKS.get(letter, letter) for letter in inner)
        return "␣" * len(before) + printable(shown) + "␣" * len(after)

    def shaded(self, text: str, share: float, red: bool = False) -> str:
        """Text on a background of a strength from 0 to 1, where there is colour."""
        if not self.colour or not share > 0.02:
            return text
        light = (250, 170, 110) if red else (120, 180, 235)
        dark = (30, 30, 34)
        mixed = [round(d + min(share, 1) * (x - d)) for d, x in zip(dark, light, strict=True)]
        ink = "30" if share > 0.55 else "97"
        return f"\x1b[{ink};48;2;{mixed[0]};{mixed[1]};{mixed[2]}m{text}\x1b[0m"

    def title(self, text: str) -> list[str]:
        lines = textwrap.wrap(text, self.width)
        return [f"\x1b[1m{line}\x1b[0m" for line in lines] if self.colour else lines

    # -- sections ----------------------------------------------------------------------------

    def heading(self) -> list[str]:
        run, parts = self.data["run"], self.data["architecture"]["parts"]
        total = sum(part["parameters"] for part in parts)
        item = f", held-out item {run['item']}" if run["item"] else ""
        return self.title(
            f"{run['name']}: {self.data['domain']['task']}, {run['arch']}, {total:,} parameters, "
            f"step {run['checkpoint']:,}; it reads {len(self.ids):,} tokens{item}"
        )

    def picture(self) -> list[str]:
        """The item, where it is not made of words."""
        domain = self.data["domain"]
        if domain["form"] == "series":
            values = [value for value in domain["values"] if value is not None]
            return [*self.title("the series"), *curve(values, min(self.width - 12, 72)).split("\n")]
        return self.item.split("\n") if self.item else []

    def losses(self) -> list[str]:
        """The tokens, each with the loss that it had."""
        nll = self.data["input"]["nll"]
        counted = self.data["input"]["counted"]
        known = [loss for loss, counts in zip(nll, counted, strict=True) if counts]
        title = "what it reads, with the loss of each token in nats"
        if known:
            mean = sum(known) / len(known)
            what = (
                "" if len(known) == sum(loss is not None for loss in nll) else " of what is scored"
            )
            title += f" (mean{what} {mean:.3f}, perplexity {math.exp(min(mean, 99)):.3g})"
        if self.data["input"]["answered"]:
            title += "; the answer is the model's own"
        lines = self.title(title)
        if source := self.data["input"]["source"]:
            words = " ".join(self.label(id) for id in source)
            lines += textwrap.wrap(f"source: {words}", self.width)
        rows: list[str] = []
        row: list[str] = []
        used = 0
        for place, id in enumerate(self.ids):
            loss = nll[place - 1] if place else None
            text = self.label(id, place) + ("" if loss is None else f" {loss:.1f}")
            if used and used + len(text) + 2 > self.width:
                rows.append("  ".join(row))
                row, used = [], 0
            row.append(self.shaded(text, 0 if loss is None else loss / STRONG, red=True))
            used += len(text) + 2
        rows.append("  ".join(row))
        left = len(rows) - ROWS
        earlier = [f"… {left:,} lines of earlier tokens"] if left > 0 else []
        return [*lines, *earlier, *rows[-ROWS:]]

    def lens(self) -> list[str]:
        """A table of the likeliest next token after each block, at the last positions."""
        lens = self.data["lens"]
        head = max(len(level) for level in (*lens["levels"], self.truth)) + 2
        fit = max(1, (self.width - head) // CELL)
        places = range(len(self.ids))[-fit:]

        def row(name: str, cells: list[str]) -> str:
            return f"{name:<{head}}" + "".join(cells).rstrip()

        def cell(text: str) -> str:
            return f"{text[: CELL - 1]:<{CELL}}"

        read = [cell(self.label(self.ids[place], place)) for place in places]
        lines = [
            *self.title("the logit lens: the likeliest next token after each block"),
            row("it reads", read),
        ]
        for number, level in enumerate(lens["levels"]):
            cells = []
            for place in places:
                share = lens["p"][number][place][0]
                text = f"{100 * share:.0f}%"
                name = self.label(lens["top"][number][place][0], place + 1)
                shown = cell(f"{name[: CELL - 2 - len(text)]} {text}")
                cells.append(self.shaded(shown[:-1], share) + " ")
            lines.append(row(level, cells))
        targets = [self.targets[place] for place in places]
        if any(target is not None for target in targets):
            names = [
                cell(self.label(target, place + 1))
                for target, place in zip(targets, places, strict=True)
            ]
            lines.append(row(self.truth, names))
        return lines

    def attention(self) -> list[str]:
        """What the last position attends to, for each head."""
        lines = []
        for row in self.data["flow"]:
            for layer in row["layers"]:
                if "entropy" not in layer or row["stack"] == "encoder":
                    continue
                crosses = layer["part"] == "cross"
                name = f"blocks.{row['block']}.{layer['name']}.hook_pattern"
                for head, weights in enumerate(self.view.tensors[name][:, -1]):
                    kind = " cross" if crosses else ""
                    lines.append(self._weights(f"{row['block']}.{head}{kind}", weights, crosses))
        if not lines:
            return []
        last = self.label(self.ids[-1], len(self.ids) - 1)
        title = f"attention of the last position, “{last}”: block.head, weights, the largest one"
        return [*self.title(title), *lines]

    def _weights(self, name: str, weights: Any, crosses: bool) -> str:
        room = max(8, self.width - 40)
        largest = int(weights.argmax())
        ids = self.data["input"]["source"] if crosses else self.ids
        shown = weights[-room:]
        most = float(weights.max()) or 1.0
        marks = "".join(SHADES[round(4 * float(w) / most)] for w in shown)
        cut = "…" if len(weights) > room else ""
        label = self.label(ids[largest], None if crosses else largest)[:14]
        return f"{name:<10}{cut}|{marks}|  {100 * weights[largest]:3.0f}% on {largest} “{label}”"

    def gates(self) -> list[str]:
        """The mean of each gate of recurrent layers over time; the reach of convolutions."""
        lines = []
        for name, values in self.view.tensors.items():
            if ".hook_gate" in name and not name.endswith(("gate_n", "gate_g")):
                block, gate = name.split(".")[1], name.rpartition("hook_")[2].replace("_", " ")
                means = values.mean(-1)[-max(8, self.width - 40) :]
                marks = "".join(LEVELS[int(min(max(m, 0), 0.999) * 8)] for m in means)
                lines.append(f"block {block}  {gate:<8}{marks}  mean {means.mean():.2f}")
        reach = self.data["architecture"]["receptive_field"]
        if reach is not None:
            lines.append(f"a position depends on the last {reach:,} positions")
        return [*self.title("layers without attention"), *lines] if lines else []

    def next(self) -> list[str]:
        """The likeliest next tokens after the last position."""
        import numpy as np

        logits = self.view.last.astype(np.float64)
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        best = np.argsort(-weights, kind="stable")[:BARS]
        place = len(self.ids)
        names = [self.label(int(id), place) for id in best]
        wide = min(max(map(len, names)), 24)
        room = max(8, self.width - wide - 12)
        lines = self.title("the next token after the last position")
        for id, name in zip(best, names, strict=True):
            if weights[id] > 0:
                bar = "█" * max(1, round(room * weights[id] / weights[best[0]] * 0.8))
                lines.append(f"{name[:wide]:<{wide}} {100 * weights[id]:5.1f}% {bar}")
        return lines
