"""Readers of pictures: image files in folders, NumPy arrays, IDX pairs, columns of tables.

In three steps: find all, unread; read the header of each for size and mode; decode.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.data.source import Source
from ...core.errors import DataError, UsageError
from .arrays import Array, as_bytes, as_pictures, is_array, label_file, read_pictures

MAX_PIXELS = 64_000_000  # of a picture; larger ones are refused as decompression bombs
SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".ico",
    ".tga",
)
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
LABEL_COLUMNS = ("label", "labels", "class", "target", "fine_label", "digit", "y")
EXIF_ORIENTATION = 0x0112
WIDE_MODES = {"I": 65536, "I;16": 65536, "I;16B": 65536, "I;16L": 65536, "F": 0}


@dataclass(frozen=True)
class Found:
    """One picture, not decoded. `data`: a path, the bytes of a file, a Pillow image, or pixels."""

    name: str
    data: Any
    label: str | None = None
    depth: int = 256  # possible values of a channel, for pixels in an array


@dataclass(frozen=True)
class Look:
    """The header of a picture. `mode`: as Pillow names it, or `array`."""

    height: int
    width: int
    mode: str
    colour: bool


def find_pictures(source: Source) -> Iterator[Found]:
    """All pictures of a source. DataError if a folder, file or table has none."""
    if source.is_table():
        yield from _rows(source)
        return
    for name in source.paths:
        folder = Path(name) if name != "-" and Path(name).is_dir() else None
        files = Source((name,)).files()
        if folder is not None:
            files = [path for path in files if path.suffix.lower() in SUFFIXES or is_array(path)]
            if not files:
                raise DataError(
                    f"--data {name}: contains no pictures (known: {', '.join(SUFFIXES)}, "
                    ".npy, .npz, IDX)"
                )
        label_files = {label_file(path) for path in files} - {None}
        for path in files:
            if path in label_files:
                continue
            if is_array(path):
                pictures, labels, depth = read_pictures(path, source.column)
                for number, pixels in enumerate(pictures):
                    yield Found(f"{path}[{number}]", pixels, labels[number], depth)
            else:
                inside = path.relative_to(folder).parent.as_posix() if folder else "."
                yield Found(str(path), path, None if inside == "." else inside)


# -- tables --------------------------------------------------------------------------------------


def _rows(source: Source) -> Iterator[Found]:
    column: str | None = source.column
    for number, row in enumerate(source.rows(), 1):
        if column is None:
            column = next((name for name, value in row.items() if _is_picture(value)), None)
            if column is None:
                raise DataError(
                    f"--data {source.describe()}: no column of pictures; name it with --column: "
                    f"{', '.join(map(str, row))}"
                )
        if column not in row:
            raise DataError(
                f"--data {source.describe()}: no column {column!r} in row {number}; "
                f"choose one with --column: {', '.join(map(str, row))}"
            )
        value = row[column]
        label = next((str(row[n]) for n in LABEL_COLUMNS if n in row and n != column), None)
        name = f"{source.describe()}, row {number}"
        if isinstance(value, dict):
            value = value.get("bytes") or Path(str(value.get("path")))
        if isinstance(value, str):
            value = Path(value)
        if isinstance(value, list):
            for found in _from_list(np.array(value), name):
                yield Found(name, found.data, label, found.depth)
        elif value is not None:
            yield Found(name, value, label)


def _from_list(array: Array, name: str) -> Iterator[Found]:
    pixels, depth = as_bytes(as_pictures(array, name), name)
    yield Found(name, pixels[0], None, depth)


def _is_picture(value: Any) -> bool:
    if isinstance(value, bytes):
        return value.startswith(MAGIC)
    if isinstance(value, dict):
        return "bytes" in value or "path" in value
    if isinstance(value, str):
        return value.lower().endswith(SUFFIXES)
    return hasattr(value, "getexif") or (isinstance(value, list) and isinstance(value[0], list))


# -- one picture ---------------------------------------------------------------------------------


def look(found: Found) -> Look:
    """Size and mode from the header. DataError for a damaged file or a decompression bomb."""
    if isinstance(found.data, np.ndarray):
        height, width, channels = found.data.shape
        return Look(height, width, "array", channels > 1)
    image = _open(found)
    width, height = image.size
    if _orientation(image) >= 5:
        width, height = height, width
    grey = image.mode in ("1", "L", "LA", "La") or image.mode in WIDE_MODES
    try:
        colour = not grey and not (image.mode == "P" and _grey_palette(image))
    except Exception as error:  # a palette may follow the first pixels
        raise _damaged(found, error) from error
    if isinstance(found.data, Path):
        image.close()
    return Look(height, width, image.mode, colour)


def decode(found: Found, height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    """(height, width, channels) uint8 of `found.depth` values: rotated by its EXIF orientation,
    composited on white if transparent, resized, converted to grey or colour."""
    from PIL import Image, ImageOps

    if isinstance(found.data, np.ndarray):
        pixels: npt.NDArray[np.uint8] = found.data
        if pixels.shape == (height, width, channels):
            return pixels
        scale = 255 / max(found.depth - 1, 1)
        image = Image.fromarray(
            np.rint(pixels * scale).astype(np.uint8).squeeze(-1)
            if pixels.shape[2] == 1
            else np.rint(pixels * scale).astype(np.uint8)
        )
    else:
        image, scale = _open(found), 1.0
        try:
            if _orientation(image) > 1:
                image = ImageOps.exif_transpose(image)
            image.load()
        except Exception as error:  # Pillow readers raise many types
            image.close()
            raise _damaged(found, error) from error
    image = _flatten(image)
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (width, height):
        smaller = width < image.size[0] or height < image.size[1]
        image = image.resize(
            (width, height), Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
        )
    out = np.asarray(image, np.uint8).reshape(height, width, channels)
    return out if scale == 1 else np.rint(out / scale).astype(np.uint8)


def _flatten(image: Any) -> Any:
    """The picture in 8 bits, composited on white if transparent."""
    from PIL import Image

    if image.mode in WIDE_MODES:
        wide = np.asarray(image).astype(np.float64)
        top = 65535.0
        if wide.size and wide.max() <= 255 and image.mode in ("I", "F"):
            top = 1.0 if wide.max() <= 1 and (wide % 1).any() else 255.0
        return Image.fromarray((np.clip(wide, 0, top) * (255 / top)).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over)
    return image


def _open(found: Found) -> Any:
    from PIL import Image

    data = io.BytesIO(found.data) if isinstance(found.data, bytes) else found.data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(data) if isinstance(data, (Path, io.BytesIO)) else data
        except Image.DecompressionBombError:
            raise _bomb(found, "far more") from None
        except OSError as error:
            if isinstance(data, Path) and not data.exists():
                raise DataError(f"{data}: no such file") from None
            raise _damaged(found, error) from error
        except Exception as error:  # Pillow readers raise many types
            raise _damaged(found, error) from error
    if image.size[0] * image.size[1] > MAX_PIXELS:
        width, height = image.size
        image.close()
        raise _bomb(found, f"{width} x {height} pixels")
    return image


def _orientation(image: Any) -> int:
    """The EXIF orientation, 1 ... 8; 1 is upright, from 5 on width and height are swapped."""
    if image.format not in ("JPEG", "MPO", "WEBP", "TIFF"):
        return 1
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block leaves the picture upright
        return 1


def _grey_palette(image: Any) -> bool:
    if "transparency" in image.info:
        return False
    palette = np.array(image.getpalette() or [0, 0, 0]).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _damaged(found: Found, error: Exception) -> DataError:
    line = str(error).splitlines() or [type(error).__name__]
    why = "not an image" if "cannot identify" in line[0] else line[0]
    return DataError(f"{found.name}: damaged ({why}); repair it, or use --skip-bad")


def _bomb(found: Found, size: str) -> DataError:
    return DataError(
        f"{found.name}: {size}, {MAX_PIXELS:,} pixels at most; shrink it, or --skip-bad"
    )


def parse_size(text: str, flag: str) -> tuple[int, int]:
    """(height, width) from HxW, or from one number for both. UsageError."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{flag} {text}: must be HEIGHTxWIDTH, as 28x28")
    return int(parts[0]), int(parts[-1])
