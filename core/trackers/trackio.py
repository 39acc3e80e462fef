"""Trackio: a local database, unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says otherwise."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

from .tracker import TrackedRun, as_file


class Trackio:
    """Variables of trackio hold: with a TRACKIO_DIR of its own, all runs share one database."""

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(run.folder))
        import trackio

        self._trackio: Any = trackio
        self._run = trackio.init(
            project="tfm",
            name=run.name,
            config=run.config,
            resume="allow" if run.step else "never",
            embed=False,
        )

    def values(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self._run.log({name: self._trackio.Markdown(f"```\n{text}\n```")}, step=step)

    def image(self, step: int, name: str, png: bytes) -> None:
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            self._run.log({name: self._trackio.Image(picture)}, step=step)

    def audio(self, step: int, name: str, wav: bytes) -> None:
        with as_file(wav, ".wav") as path:
            self._run.log({name: self._trackio.Audio(path)}, step=step)

    def close(self) -> None:
        self._trackio.finish()
