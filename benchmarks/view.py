"""Bytes, seconds and milliseconds a frame of the page of `tfm view`, in headless Chromium.

The models have random weights: the work of a page does not depend on what they have learned. Needs
Chromium and Playwright (`pip install playwright`). For each size: the bytes of a page that holds
everything exactly, and of one with --max-mb 5, how the latter holds its tensors, and the seconds to
write it; seconds until the page is ready in the browser; and milliseconds to draw one frame of the
3D walk, median and 90th percentile of 60, pixels read back.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import heading, table

from tfm.core.config import ModelConfig
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.protocols import Sequence
from tfm.core.view.look import reading
from tfm.core.view.packing import Plan
from tfm.core.view.page import View
from tfm.tasks.byte import ByteTask
from tfm.tokenizers.byte import SingleByteTokenizer

SIZES = ((4, 128, 4), (6, 384, 6), (12, 768, 12))  # layers, width, heads
POSITIONS = 64
FRAMES = 60
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def view_of(layers: int, width: int, heads: int) -> View:
    tokenizer = SingleByteTokenizer()
    torch.manual_seed(0)
    model = SequenceModel(
        ModelConfig(
            vocab_size=tokenizer.vocab_size, layers=layers, width=width, heads=heads, context=256,
            zero_init=False,
        )
    ).eval()  # fmt: skip
    draw = np.random.default_rng(0)
    ids = np.append(tokenizer.begin, draw.integers(32, 127, POSITIONS))
    read = reading(model, tokenizer, Sequence(ids), complete=True)
    facts = {"name": f"{layers} x {width}", "arch": "transformer", "checkpoint": 0, "item": None}
    return View(model, ByteTask(ByteTask.Options()), tokenizer, read, facts)


def measured(browser: Any, page: Path) -> tuple[float, list[float]]:
    """(seconds until the page is ready, milliseconds of each frame)."""
    tab = browser.new_page(viewport={"width": 1280, "height": 720})
    start = time.perf_counter()
    tab.goto(f"file://{page}#tab=space")
    tab.wait_for_selector("body[data-ready]", timeout=60_000)
    ready = time.perf_counter() - start
    tab.wait_for_timeout(1000)  # the camera comes to rest
    frames = [tab.evaluate("() => window.tfmView.frame()") for _ in range(FRAMES + 5)][5:]
    tab.close()
    return ready, frames


def main() -> None:
    from playwright.sync_api import sync_playwright

    heading()
    folder = Path(tempfile.mkdtemp(prefix="tfm-bench-"))
    rows = []
    with sync_playwright() as running:
        path = shutil.which("chromium")
        browser = running.chromium.launch(executable_path=path, args=list(FLAGS))
        print(f"Chromium {browser.version}\n")
        for layers, width, heads in SIZES:
            start = time.perf_counter()
            view = view_of(layers, width, heads)
            whole = len(view.page(Plan()))
            start = time.perf_counter()
            page, plan = view.html(5e6)
            seconds = time.perf_counter() - start
            file = folder / f"{layers}.html"
            file.write_bytes(page)
            ready, frames = measured(browser, file)
            rows.append(
                [
                    f"{layers} x {width}",
                    f"{whole / 1e6:.1f} MB",
                    f"{len(page) / 1e6:.1f} MB",
                    f"{plan.bits} bits{', recomputed' if plan.recompute else ''}"
                    f"{f', {plan.hidden} units' if plan.hidden else ''}"
                    f"{f', last {plan.last}' if plan.last else ''}",
                    f"{seconds:.1f} s",
                    f"{ready:.2f} s",
                    f"{statistics.median(frames):.1f}",
                    f"{statistics.quantiles(frames, n=10)[-1]:.1f}",
                ]
            )
    names = ["model", "whole", "with --max-mb 5", "held as", "written in", "ready in"]
    table([[*names, "ms a frame", "90th percentile"], *rows])


if __name__ == "__main__":
    main()
