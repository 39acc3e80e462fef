"""One picture: its size and mode from the header, then its pixels."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.errors import DataError, UsageError
from .arrays import Array
from .values import Range

MAX_PIXELS = 64_000_000  # of a picture; larger ones are refused as decompression bombs
SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".gif",
    ".bmp",
    ".webp",
    ".avif",
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
EXIF_ORIENTATION = 0x0112
IMAGE_WIDTH, IMAGE_LENGTH = 256, 257  # tags of TIFF
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # of more than 8 bits a pixel
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


@dataclass(frozen=True, eq=False)
class Found:
    """One picture, not decoded. `data`: a path, the bytes of a file, a Pillow image, or an array
    (height, width, channels) of the numbers that are stored. `part`: train, valid or test, if the
    data says so, else empty."""

    name: str
    data: Any
    label: str | None = None
    part: str = ""
    kind: str = ""  # as `Look.kind`, once it has been looked at


@dataclass(frozen=True)
class Look:
    """The header of a picture. `mode`: as Pillow names it, or `array`. `kind`: how its values are
    stored; each kind has one `Range` in a data set. frames: of an animation, else 1."""

    height: int
    width: int
    mode: str
    colour: bool
    kind: str  # bytes (8 bits a channel), wide (a file of more), numbers or bool (arrays)
    frames: int = 1


def is_picture_file(head: bytes) -> bool:
    """Whether a file with these first bytes is a picture that Pillow reads."""
    return head.startswith(MAGIC) or head[4:12] in (b"ftypavif", b"ftypavis")


def look(found: Found) -> Look:
    """Size and mode from the header. DataError for a damaged file or a decompression bomb."""
    if isinstance(found.data, np.ndarray):
        height, width, channels = found.data.shape
        if found.data.dtype.kind not in "iufb":
            raise DataError(f"--data {found.name}: an array of {found.data.dtype} holds no pixels")
        kind = "bool" if found.data.dtype == bool else "numbers"
        return Look(height, width, "array", channels > 1, kind)
    image = _open(found)
    width, height = image.size
    try:
        if image.format == "TIFF":  # newer versions of Pillow turn its size themselves
            width, height = image.tag_v2[IMAGE_WIDTH], image.tag_v2[IMAGE_LENGTH]
        if _orientation(image, found.data) >= 5:
            width, height = height, width
        wide = image.mode in WIDE_MODES
        grey = wide or image.mode in ("1", "L", "LA", "La")
        colour = not grey and not (image.mode == "P" and _grey_palette(image))
        frames = int(getattr(image, "n_frames", 1))
    except Exception as error:  # a palette may follow the first pixels
        raise _damaged(found, error) from error
    if isinstance(found.data, Path):
        image.close()
    return Look(height, width, image.mode, colour, "wide" if wide else "bytes", frames)


def stored(found: Found) -> Array:
    """The numbers of an array, or of a grey file, as they are stored: (height, width, channels).
    DataError."""
    if isinstance(found.data, np.ndarray):
        return found.data
    pixels = np.asarray(_loaded(found))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def decode(
    found: Found, range: Range, height: int, width: int, channels: int
) -> npt.NDArray[np.uint8]:
    """(height, width, channels) uint8 of `range.depth` values: rotated by its EXIF orientation,
    composited on white if transparent, resized, converted to grey or colour. DataError."""
    from PIL import Image

    if isinstance(found.data, np.ndarray):
        image, plain = None, True
    else:
        image = _loaded(found)
        plain = image.mode in WIDE_MODES or (image.mode == "L" and range.depth != 256)
    scale = 1.0
    if plain:
        numbers = found.data if image is None else np.asarray(image)[..., None]
        pixels = range.levels(numbers, found.name)
        if pixels.shape == (height, width, channels):
            return pixels
        scale = 255 / max(range.depth - 1, 1)
        full = np.rint(pixels * scale).astype(np.uint8)
        image = Image.fromarray(full.squeeze(-1) if full.shape[2] == 1 else full)
    image = _on_white(image)
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (width, height):
        smaller = width < image.size[0] or height < image.size[1]
        image = image.resize(
            (width, height), Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
        )
    out = np.asarray(image, np.uint8).reshape(height, width, channels)
    if range.depth == 256 or plain:
        return out if scale == 1 else np.rint(out / scale).astype(np.uint8)
    return (out.astype(np.int64) * range.depth // 256).astype(np.uint8)


def _loaded(found: Found) -> Any:
    """The decoded Pillow image, upright."""
    from PIL import ImageOps

    if isinstance(found.data, Path):  # Pillow would keep the files of animations open
        try:
            found = replace(found, data=found.data.read_bytes())
        except OSError as error:
            raise DataError(f"{found.name}: {error.strerror}") from error
    image = _open(found)
    try:
        image.load()
        if _orientation(image, found.data) > 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow readers raise many types
        image.close()
        raise _damaged(found, error) from error
    return image


def _on_white(image: Any) -> Any:
    """The picture composited on white if it is transparent."""
    from PIL import Image

    if image.mode in ALPHA_MODES or "transparency" in image.info:
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
                raise DataError(f"{found.name}: no such file") from None
            raise _damaged(found, error) from error
        except Exception as error:  # Pillow readers raise many types
            raise _damaged(found, error) from error
    if image.size[0] * image.size[1] > MAX_PIXELS:
        width, height = image.size
        image.close()
        raise _bomb(found, f"{width} x {height} pixels")
    return image


def _orientation(image: Any, data: Any) -> int:
    """The EXIF orientation, 1 ... 8; 1 is upright, from 5 on width and height are swapped. Values
    that EXIF does not define, and a damaged block, leave the picture upright."""
    if image.format == "PNG" and "exif" not in image.info:
        # the block can follow the pixels; Pillow would decode them all to look for it
        content = data.read_bytes() if isinstance(data, Path) else data
        if isinstance(content, bytes) and b"eXIf" not in content:
            return 1
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # Pillow raises many types for a damaged block
        return 1
    return value if value in {1, 2, 3, 4, 5, 6, 7, 8} else 1


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
