"""The formats of other programs, each a module of this folder that is imported when it is used.

An exporter `NAME_export.py` has `export(run, model, out, dtype) -> dict[str, object]`: it writes
`out` whole or not at all, and returns what to tell (JSON values): `files` (name -> bytes), `class`,
`dtype`, and whatever the format has beside. An importer `NAME_import.py` has
`read(source) -> Foreign`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, UsageError, nearest

if TYPE_CHECKING:
    from ..model.sequence_model import SequenceModel
    from ..runs.run import Run
    from .foreign import Foreign


@dataclass(frozen=True)
class Format:
    """module: of this folder; packages: that it imports, beside those tfm always has, installed by
    the extra `extra`; dtypes: of the weights, the default first; adapters: whether it takes a model
    whose adapters are not merged into its weights (`Run.load_trained`)."""

    module: str
    about: str
    dtypes: tuple[str, ...] = ("float32",)
    packages: tuple[str, ...] = ()
    extra: str = ""
    adapters: bool = False


EXPORTS = {
    "hf": Format("hf_export", "a folder for transformers", ("float32", "bfloat16", "float16")),
    "gguf": Format(
        "gguf_export",
        "a file for llama.cpp",
        ("float32", "float16", "bfloat16", "q8_0"),
        ("gguf",),
        "gguf",
    ),
    "onnx": Format(
        "onnx_export", "a folder for onnxruntime", ("float32",), ("onnx", "onnxscript"), "onnx"
    ),
    "peft": Format(
        "peft_export",
        "a folder of adapters for PEFT",
        ("float32", "bfloat16", "float16"),
        adapters=True,
    ),
}
IMPORTS = {
    "hf:": Format("hf_import", "hf:DIR, or hf:NAME of the Hugging Face hub"),
    ".gguf": Format("gguf_import", "FILE.gguf", packages=("gguf",), extra="gguf"),
}


def _module(format: Format, flag: str) -> Any:
    """UsageError if a package that the format needs is not installed."""
    missing = [name for name in format.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{flag}: needs {' and '.join(missing)}; install it with "
            f"pip install 'tfm-toolkit[{format.extra}]'"
        )
    return importlib.import_module(f".{format.module}", __package__)


def importer(source: str) -> Format | None:
    """The format that `source` (of `tfm import` and `train --init`) names; None if it names none,
    as the name of a run."""
    for mark, format in IMPORTS.items():
        if source.startswith(mark) if mark.endswith(":") else source.lower().endswith(mark):
            return format
    return None


def read(source: str) -> Foreign:
    """The model and tokenizer of `source`. UsageError if no format reads it or it is not there,
    DataError or DamagedError if it cannot be read."""
    format = importer(source)
    if format is None:
        known = ", ".join(each.about for each in IMPORTS.values())
        raise UsageError(f"{source}: no model that can be imported; those are {known}")
    found: Foreign = _module(format, source).read(source)
    return found


def check_export(name: str, dtype: str | None) -> str:
    """The dtype of an export. ConfigError for an unknown format or dtype, UsageError for a package
    that is not installed. It imports nothing large."""
    if name not in EXPORTS:
        raise ConfigError(f"--to {name}: no such format; {nearest(name, EXPORTS)}")
    format = EXPORTS[name]
    dtype = dtype or format.dtypes[0]
    if dtype not in format.dtypes:
        raise ConfigError(f"--dtype {dtype}: --to {name} writes {', '.join(format.dtypes)}")
    for package in format.packages:
        if importlib.util.find_spec(package) is None:
            _module(format, f"--to {name}")
    return dtype


def export(name: str, run: Run, model: SequenceModel, out: Path, dtype: str) -> dict[str, object]:
    """Writes a model of a run in the format `name`. UsageError if `out` exists, ConfigError if the
    format cannot carry this model, TfmError if it cannot be written."""
    if os.path.lexists(out):
        raise UsageError(f"{out}: already exists; choose another name")
    if not Path(os.path.abspath(out)).parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}; make it first")
    written: dict[str, object] = _module(EXPORTS[name], f"--to {name}").export(
        run, model, out, dtype
    )
    return written
