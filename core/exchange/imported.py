"""Imported models as runs: no training data, no held-out items, one checkpoint of step 0."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..architectures import SIZES, model_config
from ..config import ModelConfig, TrainConfig, tfm_version
from ..data.scratch import scratch_file
from ..errors import ConfigError, DamagedError
from ..plugins import find
from ..runs.catalogue import open_run
from ..runs.run import Run, check_free
from .formats import importer, read

if TYPE_CHECKING:
    from .foreign import Foreign

DEFAULT_CONTEXT = 2048  # of an imported model at most, unless --context says another
WIRINGS = ("llama", "gpt2", "transformer")  # of --arch, whose training settings an import takes


def import_run(source: str, path: Path, context: int | None = None) -> Run:
    """The model of `source` (see `formats.IMPORTS`) as a new run at `path`. context: its most
    positions; None: its own, at most DEFAULT_CONTEXT. UsageError, ConfigError, DataError or
    DamagedError if it cannot be read or used."""
    check_free(path)
    return _create(with_context(read(source), context), path)


def open_start(name: str, root: Path, context: int | None = None) -> Run:
    """What `train --init` names: a run (see `open_run`), or a model of another program, which is
    imported to a scratch folder. context: of such a model."""
    if importer(name) is None:
        return open_run(name, root)
    folder = scratch_file("imported", name) / "run"
    return Imported(import_run(name, folder, context).path, name)


class Imported(Run):
    """A run in a scratch folder, of a model that is read anew wherever it is needed."""

    def __init__(self, path: Path, source: str) -> None:
        super().__init__(path)
        self.source = source

    @property
    def title(self) -> str:
        return self.source

    @property
    def address(self) -> str:
        kind, colon, path = (
            self.source.partition(":") if ":" in self.source else ("", "", self.source)
        )
        return f"{kind}{colon}{os.path.abspath(path)}" if os.path.exists(path) else self.source


def with_context(foreign: Foreign, context: int | None) -> Foreign:
    """The model for at most `context` positions. ConfigError if it has fewer."""
    own = foreign.config.context
    if context is not None and context > own:
        raise ConfigError(f"--context {context}: this model has positions for {own:,} tokens")
    context = context or min(own, DEFAULT_CONTEXT)
    weights = dict(foreign.weights)
    if "position_embedding.weight" in weights:
        weights["position_embedding.weight"] = weights["position_embedding.weight"][:context]
    return replace(foreign, config=replace(foreign.config, context=context), weights=weights)


def _create(foreign: Foreign, path: Path) -> Run:
    kind, state = foreign.tokenizer
    try:
        tokenizer = find("tokenizers", kind).from_state(state, {})
    except DamagedError as error:
        raise DamagedError(f"{foreign.about['source']}: its tokenizer: {error}") from error
    train = TrainConfig(steps=1)
    task = find("tasks", "text")
    config = {
        "tfm": tfm_version(),
        "task": "text",
        "task_options": asdict(task.Options()),
        "parts": {},
        "arch": _nearest_wiring(foreign.config),
        "size": _nearest_size(foreign.config),
        "model": asdict(foreign.config),
        "train": asdict(train),
        "plan": {},
        "imported": foreign.about,
        "data": {
            "paths": [],
            "streams": {},
            "default": False,
            "about": f"none: imported from {foreign.about['source']}",
            "column": None,
            "valid": [],
            "test": [],
            "holdout": None,
            "fingerprint": "",
            "tokens": None,
            "read": None,
        },
        "tokenizer": {"spec": kind, "kind": kind},
        "final_split": "valid",
        "floor": {},
        "quick_floor": False,
        "init": None,
        "device": "cpu",
        "origins": {},
        "argv": ["import", str(foreign.about["source"])],
        "versions": {},
    }
    run = Run.create(path, config, tokenizer, {})
    about = {"train": asdict(train), "skipped": 0, "early_stopping": {}}
    try:
        run.save(0, foreign.weights, {}, about)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return run


def _nearest_wiring(config: ModelConfig) -> str:
    def differences(arch: str) -> int:
        usual = model_config(arch, "tiny")
        return sum(getattr(usual, f.name) != getattr(config, f.name) for f in fields(config))

    return min(WIRINGS, key=differences)


def _nearest_size(config: ModelConfig) -> str:
    return next((name for name in SIZES if SIZES[name]["width"] >= config.width), "large")
