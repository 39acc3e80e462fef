"""Weights & Biases: offline unless WANDB_MODE says otherwise."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Mapping

from .tracker import TrackedRun, as_file


class Wandb:
    """Variables of wandb (WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY ...) hold. An offline run is a
    folder that `wandb sync` uploads; every part of a resumed run has the same id."""

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "tfm"),
            id=run.id,
            name=run.name,
            dir=str(run.folder.parent),  # wandb adds its own name
            config=run.config,
            resume="allow" if os.environ["WANDB_MODE"] == "online" else None,
            settings=wandb.Settings(console="off", silent=True),
        )
        # wandb's own step only grows, and a resumed run can go back to its checkpoint
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def values(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def text(self, step: int, name: str, text: str) -> None:
        page = f"<pre>{html.escape(text)}</pre>"
        self._run.log({"step": step, name: self._wandb.Html(page, inject=False)})

    def image(self, step: int, name: str, png: bytes) -> None:
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            self._run.log({"step": step, name: self._wandb.Image(picture)})

    def audio(self, step: int, name: str, wav: bytes) -> None:
        with as_file(wav, ".wav") as path:
            self._run.log({"step": step, name: self._wandb.Audio(path)})

    def close(self) -> None:
        self._run.finish()
