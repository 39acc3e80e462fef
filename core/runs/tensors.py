"""Named tensors in safetensors files, which cannot contain code.

Tensors are whole in one file, NAME.safetensors, or several processes have written their rows to a
file each, NAME-00001-of-00004.safetensors and so on. All readers take the path of the one file for
either. The header of a part has the first row of each tensor, in the form that
`torch.distributed.checkpoint.HuggingFaceStorageWriter` gives it, so that torch's own reader opens a
folder of parts. That writer makes no checksums, and its processes send each other pickled objects:
here a part is written by safetensors alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from ..errors import DamagedError

if TYPE_CHECKING:
    from torch import Tensor

    from ..model.sequence_model import SequenceModel

    Own = Callable[[Tensor], tuple[Tensor, slice]]

OFFSETS = "DCP_SHARDING_INFO"  # in a header: JSON, the first index of each tensor by name
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.safetensors)")


def part_name(name: str, rank: int, size: int) -> str:
    """The file of `name`, such as model.safetensors, that process `rank` of `size` writes."""
    if size == 1:
        return name
    return f"{Path(name).stem}-{rank + 1:05d}-of-{size:05d}.safetensors"


def files_of(name: str, there: Iterable[str]) -> list[str]:
    """The files, of those `there`, that together have the tensors of `name`: the one of that name,
    or its parts in order. Empty if there are not all."""
    there = set(there)
    sizes = {int(m[3]) for m in map(PART.fullmatch, there) if m and m[1] + m[4] == name}
    for size in (1, *sorted(sizes)):
        files = [part_name(name, rank, size) for rank in range(size)]
        if there.issuperset(files):
            return files
    return []


def part_bytes(tensors: Mapping[str, Tensor], first_rows: Mapping[str, int] | None) -> bytes:
    """A safetensors file. first_rows: where the rows of each tensor begin in the whole one; None
    for whole tensors."""
    from safetensors.torch import save

    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    if first_rows is None:
        return save(plain)
    offsets = {
        name: {"saved_offsets": [first_rows.get(name, 0), *[0] * (tensor.ndim - 1)][: tensor.ndim]}
        for name, tensor in plain.items()
    }
    return save(plain, {OFFSETS: json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"})


class StoredTensor:
    """A tensor on disk. Like a Tensor it has `shape`; `[a:b]` reads these rows, `[...]` all."""

    def __init__(self, pieces: list[tuple[int, Any]]) -> None:
        """pieces: (first row, slice of an open file), in order. ValueError if they do not fit."""
        self.pieces = pieces
        shapes = [tuple(piece.get_shape()) for _, piece in pieces]
        kinds = {(tuple(p.get_shape()[1:]), p.get_dtype()) for _, p in pieces}
        self.shape: tuple[int, ...] = shapes[0]
        for (first, _), shape in zip(pieces[1:], shapes[1:], strict=True):
            if not shape or first != self.shape[0]:
                raise ValueError("its parts do not follow each other")
            self.shape = (first + shape[0], *shape[1:])
        if pieces[0][0] != 0 or len(kinds) > 1:
            raise ValueError("its parts do not fit each other")

    def __getitem__(self, rows: slice | EllipsisType) -> Tensor:
        import torch

        if len(self.pieces) == 1:
            own: Tensor = self.pieces[0][1][rows]
            return own
        low, high, _ = (slice(None) if rows is Ellipsis else rows).indices(self.shape[0])
        found = []
        for first, piece in self.pieces:
            count = piece.get_shape()[0]
            if low < first + count and first < high:
                found.append(piece[max(0, low - first) : min(count, high - first)])
        return torch.cat(found) if found else self.pieces[0][1][:0]


def open_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, or of its parts, by name. DamagedError if it is not one,
    or if a part is missing."""
    from safetensors import safe_open

    pieces: dict[str, list[tuple[int, Any]]] = {}
    try:
        files = files_of(path.name, (other.name for other in path.parent.iterdir()))
        for name in files or [path.name]:
            file: Any = safe_open(path.with_name(name), "pt")
            offsets = json.loads((file.metadata() or {}).get(OFFSETS, "{}"))
            for key in file.keys():
                first = offsets[key]["saved_offsets"][:1] if offsets else []
                pieces.setdefault(key, []).append((first[0] if first else 0, file.get_slice(key)))
        return {name: StoredTensor(found) for name, found in pieces.items()}
    except Exception as error:  # safetensors raises its own exception types
        raise DamagedError(f"{path}: not readable as tensors ({error})") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The whole tensors of a file, or of its parts, by name. DamagedError as in `open_tensors`."""
    return {name: tensor[...] for name, tensor in open_tensors(path).items()}


def load_weights(model: SequenceModel, path: Path, own: Own = lambda p: (p, slice(None))) -> None:
    """Loads the weights that are not frozen into the model. own: of a parameter, what this process
    has of it, and which rows that is; by default all. DamagedError if their names or shapes do not
    fit the model."""
    stored = open_tensors(path)
    if "place.weight" in stored:  # as older versions of tfm named it
        stored["position_embedding.weight"] = stored.pop("place.weight")
    known = dict(model.named_parameters(remove_duplicate=False))
    # a tied head is the embedding, and no parameter of its own
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    try:
        if others := [*sorted(trained - stored.keys()), *sorted(stored.keys() - known.keys())]:
            raise ValueError(f"other tensors than the model's: {others[:3]}")
        for name, tensor in stored.items():
            if tensor.shape != known[name].shape:
                raise ValueError(f"{name} is {tensor.shape}, not {tuple(known[name].shape)}")
            held, rows = own(known[name].detach())
            held.copy_(tensor[rows])
    except (ValueError, RuntimeError) as error:
        raise DamagedError(f"{path}: not the weights of this model ({error})") from error
