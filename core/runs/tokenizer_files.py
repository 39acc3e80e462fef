"""The files of a tokenizer: tokenizer.json, and tokenizer.safetensors if it has arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import DamagedError
from ..files import to_json


def write_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Writes the files of a tokenizer to a folder without one."""
    state, arrays = tokenizer.state()
    (folder / "tokenizer.json").write_bytes(to_json(state))
    if arrays:
        from safetensors.numpy import save

        (folder / "tokenizer.safetensors").write_bytes(save(arrays))


def read_tokenizer(folder: Path, kind: str) -> Any:
    """The tokenizer, of this kind, that a folder holds. DamagedError if its files are no such."""
    from ..plugins import find

    try:
        state = json.loads((folder / "tokenizer.json").read_bytes())
        arrays: dict[str, Any] = {}
        if (folder / "tokenizer.safetensors").exists():
            from safetensors.numpy import load_file

            arrays = load_file(str(folder / "tokenizer.safetensors"))
        return find("tokenizers", kind).from_state(state, arrays)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{folder / 'tokenizer.json'}: damaged ({error})") from error
