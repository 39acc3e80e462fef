"""The page of `tfm view`: one HTML file without requests, with a model's tensors in it.

`page/` has its HTML, CSS and JavaScript modules. The page's data is JSON of format FORMAT; the
bytes of its tensors follow in base64.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..model.attention import Attention
from ..model.sequence_model import SequenceModel
from ..protocols import Tokenizer
from ..task import Task
from .code import pseudo_code, walk
from .layout import TOP_LOGITS, layout
from .look import Reading, captured, flow, last_logits, lens
from .packing import Floats, Packed, Plan, Recipe, given_up, ladder, pack, recipes

FORMAT = 1
FOLDER = Path(__file__).parent / "page"
# in the order in which they use each other
MODULES = (
    *("dom", "colours", "tensors", "labels", "state", "controls", "charts", "item", "tokens"),
    *("io_item", "io_next", "io"),
    *("space_scene", "space_camera", "space_words", "space_painter"),
    *("space_drawer", "space_bar", "space"),
    *("matrix_reader", "matrix_attention", "matrix_recurrent", "matrix_ffn"),
    *("matrix_grid", "matrix_item", "matrix_cells", "matrix"),
    *("flow_lens", "flow_item", "flow_stream", "flow_heads", "flow"),
    *("code", "checks", "main"),
)
STYLES = ("style", "controls", "charts", "io", "space", "matrix", "flow", "code")
MOST_COMPRESSED = 4  # no page is smaller than a fourth of its tensors
BARS = 200  # the likeliest next ids that have a label
IMPORT = re.compile(r"^import .*?;\n", re.M | re.S)
EXPORT = re.compile(r"^export ", re.M)


class View:
    """One pass of a model over an item, as data."""

    def __init__(
        self,
        model: SequenceModel,
        task: Task,
        tokenizer: Tokenizer,
        read: Reading,
        run: Mapping[str, Any],
    ) -> None:
        """run: facts on the run, for its heading."""
        self.config, self.read = model.config, read
        self.source = 0 if read.source is None else len(read.source)
        found = captured(model, tokenizer, read)
        self.lens = lens(model, found, read)
        self.last = last_logits(found, read).cpu().numpy().astype(np.float32)
        self.flow = flow(model.config, found, read)
        self.tensors = {name: each.cpu().numpy().astype(np.float32) for name, each in found.items()}
        self.weights = _weights(model)
        likeliest = np.argsort(-self.last, kind="stable")
        self.top = likeliest[:TOP_LOGITS]
        shown = likeliest[np.isfinite(self.last[likeliest])][:BARS]
        top = self.lens["top"]
        guesses = np.array([[each[0] for each in level] for level in top])
        listed = np.array([id for level in top for each in level for id in each])
        targets = read.targets[read.targets >= 0]
        ids = np.unique(np.concatenate((shown, listed, read.ids, targets, self.top)))
        if read.source is not None:
            ids = np.unique(np.concatenate((ids, read.source)))
        whole = read.sequence
        self.data: dict[str, Any] = {
            "format": FORMAT,
            "run": dict(run),
            "domain": {
                "task": task.name,
                "unit": task.unit,
                **task.illustration(whole, tokenizer, guesses, ids),
            },
            "architecture": {
                "config": {**asdict(model.config), "hidden": model.config.hidden},
                "head_width": model.config.head_width,
                "groups": model.config.groups,
                "parts": parts(model),
                "receptive_field": model.receptive_field(),
                "code": [asdict(line) for line in pseudo_code(self.config, *self._lengths)],
            },
            "input": {
                "ids": read.ids.tolist(),
                "targets": [int(each) if each >= 0 else None for each in read.targets],
                "nll": self.lens["nll"][-1],
                "counted": read.counted.tolist(),
                "source": None if read.source is None else read.source.tolist(),
                "given": whole.given,
                "answered": read.answered,
                "legal": read.legal[-1].tolist(),
            },
            "labels": dict(
                zip(map(str, ids.tolist()), task.token_labels(ids, tokenizer), strict=True)
            ),
            "boxes": [asdict(box) for box in layout(self.config, *self._lengths)],
            "walk": [asdict(step) for step in walk(self.config, *self._lengths)],
            "lens": self.lens,
            "last_logits": {  # of the likeliest; the tensor of this name has all
                "ids": shown.tolist(),
                "logits": [float(f"{x:.6g}") for x in self.last[shown]],
            },
            "flow": self.flow,
        }

    @property
    def _lengths(self) -> tuple[int, int]:
        return len(self.read.ids), self.source

    def html(self, max_bytes: float) -> tuple[bytes, Plan]:
        """The page, with as much as fits. UsageError if the smallest one does not."""
        page = b""
        for plan in ladder(self.config, len(self.read.ids)):
            if self._stored_bytes(plan) > MOST_COMPRESSED * max_bytes:
                continue
            page = self.page(plan)
            if len(page) <= max_bytes:
                return page, plan
        smallest = len(page or self.page(plan)) / 1e6
        raise UsageError(
            f"--max-mb {max_bytes / 1e6:g}: the smallest page of this input has {smallest:.1f} MB"
        )

    def _stored_bytes(self, plan: Plan) -> float:
        """The bytes of tensors by a plan before they are compressed, at most."""
        tensors, _ = self._selected(plan)
        left = self._recipes(plan)
        return sum(each.size for name, each in tensors.items() if name not in left) * plan.bits / 8

    def _recipes(self, plan: Plan) -> dict[str, Recipe]:
        if not plan.recompute:
            return {}
        return recipes(self.config, *self._lengths, self.weights, plan.last > 0)

    def given_up(self, plan: Plan) -> list[str]:
        """What a page by this plan lacks or does not have exactly."""
        return given_up(plan, self.config, len(self.read.ids))

    def page(self, plan: Plan) -> bytes:
        """The page that a plan gives."""
        packed = self.pack(plan)
        data = {
            **self.data,
            "tensors": packed.records,
            "first": len(self.read.ids) - plan.last if plan.last else 0,
            "source_first": max(self.source - plan.last, 0) if plan.last else 0,
            "left_out": self.given_up(plan),
        }
        return assemble(data, packed.blob)

    def pack(self, plan: Plan) -> Packed:
        """The tensors that a plan keeps, as bytes."""
        tensors, kept = self._selected(plan)
        of = self._recipes(plan)
        exact = {"last_logits", *(name for name in self.weights if not name.endswith("W_O"))}
        return pack(tensors, kept, of, plan.bits, exact)

    def _selected(self, plan: Plan) -> tuple[dict[str, Floats], dict[str, dict[str, Any]]]:
        """(tensors, facts on those of which only a part is kept)."""
        weights = {
            name: each
            for name, each in self.weights.items()
            if plan.weights or not name.endswith("W_O")
        }
        tensors: dict[str, Floats] = {**weights}
        kept: dict[str, dict[str, Any]] = {}
        units = self._largest_units(plan.hidden)
        for name, values in self.tensors.items():
            tensors[name] = values
            at, _, _ = name.partition(".mlp.")
            if name == "logits":
                tensors[name] = values[:, self.top]
                kept[name] = {"kept": self.top.tolist(), "of": values.shape[1]}
            elif ".mlp." in name and at in units:
                tensors[name] = values[:, units[at]]
                kept[name] = {"kept": units[at].tolist(), "of": values.shape[1]}
            if plan.last:
                tensors |= self._last(name, tensors[name], plan.last)
        tensors["last_logits"] = self.last
        if plan.blocks is not None:
            tensors = {
                name: values
                for name, values in tensors.items()
                if not (found := re.match(r"(?:blocks|encoder)\.(\d+)\.", name))
                or int(found[1]) in plan.blocks
            }
        return tensors, kept

    def _largest_units(self, count: int) -> dict[str, Any]:
        """For each block, the numbers of the hidden units with the largest activations."""
        found = {}
        for name, values in self.tensors.items():
            if count and name.endswith(".mlp.hook_post") and values.shape[1] > count:
                largest = np.argsort(-np.abs(values).max(0), kind="stable")[:count]
                found[name.removesuffix(".mlp.hook_post")] = np.sort(largest)
        return found

    def _last(self, name: str, values: Floats, last: int) -> dict[str, Floats]:
        """A tensor at the last positions, and of a pattern its sum over the keys before these."""
        if not name.endswith(("attn_scores", "pattern")):
            return {name: values[-last:]}
        kept = {name: np.ascontiguousarray(values[:, -last:, -last:])}
        if name.endswith("pattern"):
            kept[f"{name}_earlier"] = values[:, -last:, :-last].sum(-1)
        return kept


def _weights(model: SequenceModel) -> dict[str, Floats]:
    """Weights that the page computes with: of norms, and of output projections (heads, w, D)."""
    found: dict[str, Floats] = {}

    def norm(name: str, module: Any) -> None:
        for part, each in (("w", "weight"), ("b", "bias")):
            value = getattr(module, each, None)
            if value is not None:
                found[f"{name}.{part}"] = value.detach().float().cpu().numpy()

    names = {"mixer_norm": "ln1", "cross_norm": "ln_cross", "ffn_norm": "ln2"}
    for stack, blocks in (("encoder", model.encoder), ("blocks", model.blocks)):
        for number, block in enumerate(blocks):
            for own, name in names.items():
                norm(f"{stack}.{number}.{name}", getattr(block, own))
            for own, name in (("mixer", "attn"), ("cross", "cross_attn")):
                layer = getattr(block, own)
                if isinstance(layer, Attention) or own == "cross" and layer is not None:
                    weight = layer.out.weight.detach().float().cpu().numpy()
                    shaped = weight.T.reshape(layer.heads, -1, len(weight))
                    found[f"{stack}.{number}.{name}.W_O"] = np.ascontiguousarray(shaped)
                    if layer.out.bias is not None:
                        bias = layer.out.bias.detach().float().cpu().numpy()
                        found[f"{stack}.{number}.{name}.b_O"] = bias
    norm("encoder.ln_final", model.encoder_norm)
    norm("ln_final", model.norm)
    return found


def parts(model: SequenceModel) -> list[dict[str, Any]]:
    """The parameters of each part, which sum to all of them. A tied head has none of its own."""

    def count(module: Any) -> int:
        return 0 if module is None else sum(p.numel() for p in module.parameters())

    found = [("embedding", count(model.embedding)), ("features", count(model.features))]
    found.append(("positions", count(model.position_embedding)))
    for stack, blocks in (("encoder", model.encoder), ("blocks", model.blocks)):
        for number, block in enumerate(blocks):
            found.append((f"{stack}.{number}", count(block)))
    found += [("encoder norm", count(model.encoder_norm)), ("norm", count(model.norm))]
    found.append(("head", 0 if model.config.tied else count(model.head)))
    return [{"name": name, "parameters": number} for name, number in found if number]


# -- HTML ------------------------------------------------------------------------------------------


def assemble(data: Mapping[str, Any], blob: bytes) -> bytes:
    """The HTML file. Its Content-Security-Policy allows its own script and style, by their hashes,
    and nothing else."""
    script = joined()
    style = "\n".join((FOLDER / f"{name}.css").read_text(encoding="utf-8") for name in STYLES)
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c")  # so that no string of the data can close its element
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    fill: dict[str, str] = {
        "policy": policy,
        "style": style,
        "data": text,
        "tensors": base64.b64encode(blob).decode(),
        "script": script,
    }
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: fill[found[1]], page).encode()


def joined() -> str:
    """The modules as one script: their imports and the word `export` are taken out."""
    texts = [(FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in MODULES]
    return "\n".join(EXPORT.sub("", IMPORT.sub("", text)) for text in texts)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
