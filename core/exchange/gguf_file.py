"""The container of GGUF files, the format of llama.cpp (docs/gguf.md of ggml, versions 2 and 3).

Every size in a header is checked against the size of the file before anything is read by it, which
the reader of the package `gguf` does not do; that package turns blocks of quantised numbers into
floats, and writes files.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DamagedError, DataError, UsageError, writing
from ..files import sync_folder

MAGIC = b"GGUF"
MAX_VALUES = 1 << 22  # strings and keys in all; a large vocabulary has half a million merges
MAX_TENSORS = 1 << 16
MAX_NAME_BYTES = 1 << 16  # of a key or a tensor
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 16
ROWS_AT_ONCE = 1 << 20  # numbers that are turned into floats at a time, about
FLOAT32, BOOL, STRING, ARRAY = 6, 7, 8, 9
SCALARS = {  # dtypes of the types of values in metadata
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", FLOAT32: "<f4", BOOL: "?",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """shape: as torch has it, the rows last; kind: a GGMLQuantizationType; the tensor's bytes in
    the file are start ... stop - 1."""

    shape: tuple[int, ...]
    kind: Any
    start: int
    stop: int


class GgufFile(Mapping[str, Tensor]):
    """The tensors of a file by name, each read into float32 when it is asked for; `metadata`: its
    values by key, arrays of strings as lists and of numbers as numpy arrays. UsageError if there is
    no such file, DataError if it is none of GGUF, ConfigError for what tfm does not read (types of
    tensors, big-endian files, parts of a split model), DamagedError for a header that contradicts
    itself or the file's size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = _mapped(path)
        header = _Header(self._data)
        if header.take(4) != MAGIC:
            raise DataError("not a GGUF file")
        version = header.number("I")
        if version in (2 << 24, 3 << 24):
            raise ConfigError("a big-endian file; tfm reads little-endian ones")
        if version not in (2, 3):
            raise ConfigError(f"GGUF version {version}; tfm reads 2 and 3")
        tensors, values = header.number("Q"), header.number("Q")
        header.check_count(tensors, 24, MAX_TENSORS, "tensors")
        header.check_count(values, 13, MAX_VALUES, "keys")
        self.metadata: dict[str, Any] = {}
        for _ in range(values):
            key = header.string(MAX_NAME_BYTES)
            if key in self.metadata:
                raise DamagedError(f"its key {key[:80]!r} is there twice")
            self.metadata[key] = header.value(key)
        if self.number("split.count", 1) > 1:
            raise ConfigError(
                "a part of a model that is split into several files; merge them first"
            )
        self.infos = dict(self._read_infos(header, tensors))

    def number(self, key: str, default: int | float | None = None) -> Any:
        """An int, float or bool of the metadata. DamagedError if it is none, or is not there and
        has no default."""
        found = self.metadata.get(key, default)
        if found is None:
            raise DamagedError(f"its metadata has no {key}")
        if not isinstance(found, (int, float)):
            raise DamagedError(f"{key} is no number")
        return found

    def _read_infos(self, header: _Header, count: int) -> Iterator[tuple[str, TensorInfo]]:
        alignment = self.number("general.alignment", 32)
        if alignment not in [1 << n for n in range(3, MAX_ALIGNMENT.bit_length())]:
            raise DamagedError(f"general.alignment {alignment} is no power of two from 8")
        found = [_tensor_info(header) for _ in range(count)]
        data = -(-header.at // alignment) * alignment
        names = set()
        for name, _, _, offset, _ in found:
            if name in names:
                raise DamagedError(f"its tensor {name[:80]!r} is there twice")
            names.add(name)
            if offset % alignment:
                raise DamagedError(f"{name}: does not begin at a multiple of {alignment}")
        last = 0
        for name, shape, kind, offset, size in sorted(found, key=lambda each: each[3]):
            if offset < last:
                raise DamagedError(f"{name}: overlaps another tensor")
            last = offset + size
            if data + last > len(self._data):
                raise DamagedError(
                    f"{name}: ends at byte {data + last:,}, and the file has {len(self._data):,}"
                )
            yield name, TensorInfo(shape, kind, data + offset, data + last)

    def __getitem__(self, name: str) -> Tensor:
        from gguf import GGML_QUANT_SIZES, dequantize

        info = self.infos[name]
        block, size = GGML_QUANT_SIZES[info.kind]
        row = info.shape[-1] // block * size
        stored = np.frombuffer(self._data, np.uint8, info.stop - info.start, info.start)
        stored = stored.reshape(-1, row)
        found = np.empty((len(stored), info.shape[-1]), np.float32)
        each = max(1, ROWS_AT_ONCE // info.shape[-1])
        with np.errstate(all="ignore"):  # numbers that are not finite are found later
            for at in range(0, len(stored), each):
                found[at : at + each] = dequantize(stored[at : at + each], info.kind)
        return torch.from_numpy(found.reshape(info.shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


def _mapped(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise DataError("an empty file")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise UsageError("there is no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({error})") from error


class _Header:
    """Reads values one after the other. DamagedError where the file ends first."""

    def __init__(self, data: Any) -> None:
        self.data, self.at, self.values = data, 0, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise DamagedError(
                f"its header needs {count:,} bytes at byte {self.at:,}, and the file has "
                f"{len(self.data):,}"
            )
        self.at += count
        found: bytes = self.data[self.at - count : self.at]
        return found

    def number(self, form: str) -> int:
        found: int = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]
        return found

    def check_count(self, count: int, least: int, most: int, what: str) -> None:
        """DamagedError for a count of things of at least `least` bytes that cannot be there."""
        if count > min(most, (len(self.data) - self.at) // least):
            raise DamagedError(f"its header names {count:,} {what}, which cannot be in the file")

    def string(self, most: int | None = None) -> str:
        length = self.number("Q")
        if most is not None and length > most:
            raise DamagedError(f"a name of {length:,} bytes at byte {self.at:,}")
        self.values += 1
        if self.values > MAX_VALUES:
            raise DamagedError(f"more than {MAX_VALUES:,} strings in its metadata")
        return self.take(length).decode("utf-8", "replace")

    def value(self, key: str) -> Any:
        kind = self.number("I")
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            number = self._numbers(kind, 1, key)[0]
            return float(str(number)) if kind == FLOAT32 else number.item()  # 1e-05 stays that
        kind, count = self.number("I"), self.number("Q")
        if kind != STRING:
            return self._numbers(kind, count, key)
        self.check_count(count, 8, MAX_VALUES, f"strings in {key[:80]}")
        return [self.string() for _ in range(count)]

    def _numbers(self, kind: int, count: int, key: str) -> np.ndarray[Any, Any]:
        if kind not in SCALARS:
            raise DamagedError(f"{key[:80]}: values of the unknown type {kind}")
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)


def _tensor_info(header: _Header) -> tuple[str, tuple[int, ...], Any, int, int]:
    """Name, shape, kind, offset and bytes of a tensor."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    name, count = header.string(MAX_NAME_BYTES), header.number("I")
    if not 1 <= count <= MAX_DIMENSIONS:
        raise DamagedError(f"{name[:80]}: a tensor of {count:,} dimensions")
    shape = tuple(header.number("Q") for _ in range(count))[::-1]
    number, offset = header.number("I"), header.number("Q")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise ConfigError(f"{name[:80]}: numbers of the unknown type {number}") from None
    if not _is_readable(kind):
        raise ConfigError(f"{name[:80]}: numbers of type {kind.name}, which tfm cannot read")
    block, size = GGML_QUANT_SIZES[kind]
    if min(shape) < 1 or shape[-1] % block:
        raise DamagedError(f"{name[:80]}: the shape {shape} cannot be of type {kind.name}")
    return name, shape, kind, offset, math.prod(shape) // block * size


def _is_readable(kind: Any) -> bool:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    if kind.name.startswith("I") and kind.name[1:].isdigit():  # whole numbers
        return False
    if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        return True
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (NotImplementedError, KeyError):
        return False
    return True


def write_gguf(
    path: Path, metadata: Mapping[str, Any], tensors: Iterable[tuple[str, Tensor, Any]]
) -> int:
    """Writes a new file, whole or not at all, and returns its size in bytes. metadata: str, bool,
    int, float (32 bits), lists of str and numpy arrays of int32 or float32; tensors: name, float32
    values, and the GGMLQuantizationType to store them in. TfmError if that fails."""
    import gguf

    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    with writing(path):
        try:
            writer = gguf.GGUFWriter(fresh, str(metadata["general.architecture"]))
            for key, value in metadata.items():
                if key != "general.architecture":  # which the writer has written
                    _add(writer, key, value)
            for name, tensor, kind in tensors:
                stored = gguf.quantize(np.ascontiguousarray(tensor.numpy()), kind)
                writer.add_tensor(name, stored, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            for file in writer.fout or ():
                file.flush()
                os.fsync(file.fileno())
            writer.close()
            size = fresh.stat().st_size
            os.replace(fresh, path)
            sync_folder(Path(os.path.abspath(path)).parent)
        except BaseException:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise
    return size


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, (list, np.ndarray)):
        kind = None if isinstance(value, list) else ARRAYS[value.dtype.name]
        from gguf import GGUFValueType

        sub = GGUFValueType.STRING if kind is None else GGUFValueType[kind]
        writer.add_key_value(key, list(value), GGUFValueType.ARRAY, sub)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


ARRAYS = {"int32": "INT32", "float32": "FLOAT32"}
