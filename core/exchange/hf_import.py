"""Models of transformers, read from their files: config.json, *.safetensors, tokenizer.json.

No code of a model is loaded, and transformers itself is not needed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ..data.hub import look_for
from ..errors import ConfigError, DamagedError, DataError, UsageError
from .config_json import family_named
from .foreign import Foreign, llama_like, tokenizer_of

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
MAX_JSON_BYTES = 1 << 28  # of one file
HUB_NAME = re.compile(r"(?:[\w.-]{1,96}/)?[\w.-]{1,96}")


def read(source: str) -> Foreign:
    """The model of hf:DIR, or of hf:NAME on the Hugging Face hub. UsageError if there is none,
    DataError if the hub cannot give it, DamagedError or ConfigError if it cannot be read."""
    name = source.removeprefix("hf:")
    folder = Path(name) if os.path.isdir(name) else _from_hub(name)
    title = Path(os.path.abspath(name)).name if os.path.isdir(name) else name
    try:
        values = _table(folder / "config.json")
        tensors = Tensors(folder)
        config, weights = llama_like(values, tensors)
        tokenizer = tokenizer_of(_table(folder / "tokenizer.json"), values)
    except (ConfigError, DamagedError) as error:
        raise type(error)(f"{source}: {error}") from error
    about = {"source": f"hf:{title}", "class": family_named(values).name, "dtype": tensors.dtype()}
    return Foreign(config, weights, tokenizer, about)


def _table(path: Path) -> dict[str, Any]:
    """The JSON object of a file. DamagedError if it has none, or is missing."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES:,} bytes")
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not a table")
        return found
    except FileNotFoundError:
        raise DamagedError(f"has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path.name}: not readable ({error})") from error


class Tensors(Mapping[str, Tensor]):
    """The tensors of a folder by name, each read when it is asked for: of model.safetensors, or of
    the files that its index lists. safetensors checks sizes against the file's before it reads.
    DamagedError for a file that is missing, damaged or outside of the folder."""

    def __init__(self, folder: Path) -> None:
        names = {WEIGHTS}
        if (folder / INDEX).exists():
            listed = _table(folder / INDEX).get("weight_map")
            if not isinstance(listed, dict) or not all(map(_is_shard, listed.values())):
                raise DamagedError(f"{INDEX}: its weight_map is no table of safetensors files")
            names = set(listed.values())
        self.files = [_opened(folder / name) for name in sorted(names)]
        self.places = {key: file for file in self.files for key in file.keys()}

    def dtype(self) -> str:
        """Of most tensors, as safetensors names it."""
        kinds = [str(file.get_slice(key).get_dtype()) for key, file in self.places.items()]
        return max(sorted(set(kinds)), key=kinds.count)

    def __getitem__(self, name: str) -> Tensor:
        try:
            found: Tensor = self.places[name].get_tensor(name)
            return found
        except KeyError:
            raise
        except Exception as error:  # safetensors raises its own types
            raise DamagedError(f"{name}: not readable ({error})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def _is_shard(name: object) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"[\w.-]+\.safetensors", name))


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise DamagedError(f"has no {path.name}")
    try:
        return safe_open(str(path), framework="pt")
    except Exception as error:  # safetensors raises its own types
        raise DamagedError(f"{path.name}: not a safetensors file ({error})") from error


def _from_hub(name: str) -> Path:
    """A folder with the files of a model of the hub, or of its copy on this machine."""
    if os.path.exists(name):
        raise UsageError(f"hf:{name}: a file; name the folder that it is in")
    if not HUB_NAME.fullmatch(name):
        raise UsageError(f"hf:{name}: no such folder, and not a name of the Hugging Face hub")
    reachable = look_for(name)
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()

    def get(file: str) -> Path:
        return Path(huggingface_hub.hf_hub_download(name, file))

    try:
        folder = get("config.json").parent
        get("tokenizer.json")
        try:
            shards = _table(get(INDEX)).get("weight_map")
            names = sorted({*shards.values()}) if isinstance(shards, dict) else []
            for shard in filter(_is_shard, names):
                get(shard)
        except huggingface_hub.errors.EntryNotFoundError:  # a single file
            get(WEIGHTS)
        return folder
    except Exception as error:  # the library raises many types
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = f"cannot be loaded from the Hugging Face hub ({line[:200]})"
        if not reachable:
            where = "not on this machine, and the Hugging Face hub cannot be reached"
        raise DataError(f"hf:{name}: no such folder, and {where}") from error
