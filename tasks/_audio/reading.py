"""Reads the clips of a source, and says what was found, changed and left out."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...core.data.archives import JUNK, extracted, is_archive
from ...core.data.compressed import unpacked
from ...core.data.scratch import scratch_file, shown
from ...core.data.source import Source
from ...core.errors import DataError, writing
from ...core.task import Description
from .._labelled.folders import listed, places
from .._labelled.labels import label_names, resolve_position
from .clips import Clips, Found, counted
from .options import AudioOptions
from .recordings import SUFFIXES, Heard, is_sound, rate_of, read_recording, resampled, to_16_bits

MAX_DEFAULT_RATE = 8000
SHOWN_LABELS = 6  # in the description
PLACES = {"first": "before the sound", "last": "after the sound", "none": "not used"}


def read_clips(source: Source, options: AudioOptions) -> Clips:
    """All clips of a source at one rate. DataError if it has none, or one cannot be read."""
    pairs, left = find(source)
    if options.label_from is not None:
        pattern = re.compile(options.label_from)
        pairs = [(replace(one, label=_label(pattern, one.name)), path) for one, path in pairs]
    if {"train"} < {one.part for one, _ in pairs}:
        left += listed([one.name for one, _ in pairs if not one.part], "in no part of the data set")
        pairs = [(one, path) for one, path in pairs if one.part]
    counted_on = [one for one, _ in pairs if one.part in ("", "train")] or [p[0] for p in pairs]
    position = resolve_position(options.labels, tuple(one.label for one in counted_on))
    if position == "first":
        left += listed([one.name for one, _ in pairs if one.label is None], "without a label")
        pairs = [(one, path) for one, path in pairs if one.label is not None]
        if not pairs:
            raise DataError(no_labels(position, source.describe()))
    bad = list[str]()
    rate = options.rate or _usual_rate(path for _, path in pairs)
    scratch = scratch_file("samples")
    kept, heard, lengths = list[Found](), list[Heard](), list[int]()
    with writing(scratch), scratch.open("wb") as out:
        for one, path in pairs:
            try:
                recording = read_recording(path, one.name)
            except DataError:
                if not options.skip_bad:
                    raise
                bad.append(one.name)
                continue
            samples = resampled(recording.samples, recording.about.rate, rate)
            out.write(to_16_bits(samples).tobytes())
            kept.append(one)
            lengths.append(len(samples))
            heard.append(recording.about)
    left += listed(bad, "unreadable")
    if not kept:
        raise DataError(f"--data {source.describe()}: contains no readable sound file")
    raw = np.memmap(scratch, "<i2", "r")
    said = _describe(kept, heard, rate, sum(lengths), position, left)
    return clips_of(raw, lengths, rate, kept, position, said)


def clips_of(
    raw: np.ndarray[tuple[int], np.dtype[np.int16]],
    lengths: list[int],
    rate: int,
    found: list[Found],
    position: str,
    description: Description,
) -> Clips:
    ends = np.cumsum(lengths)
    bounds = np.stack((ends - lengths, ends), axis=1).astype(np.int64)
    about = (rate, lengths, [(one.label, one.part) for one in found])
    digest = hashlib.sha256(repr(about).encode())
    digest.update(np.ascontiguousarray(raw).data)
    named = counted(len(found))
    return Clips(raw, bounds, rate, tuple(found), position, digest.hexdigest(), named, description)


def no_labels(position: str, about: str) -> str:
    """The message that labels are asked for, and there are none."""
    return (
        f"--labels {position}: no clip of {about} has a label; use subfolders or --label-from, or "
        "--labels none"
    )


def _usual_rate(paths: Iterable[Path]) -> int:
    """The rate of most files, at most MAX_DEFAULT_RATE."""
    rates = Counter(rate for path in paths if (rate := rate_of(path)))
    most = max(rates, key=lambda rate: (rates[rate], rate), default=MAX_DEFAULT_RATE)
    return min(MAX_DEFAULT_RATE, most)


def _label(pattern: re.Pattern[str], name: str) -> str | None:
    match = pattern.search(name.rpartition("/")[2])
    return match[1] if match and match[1] else None


# -- files ---------------------------------------------------------------------------------------


def find(source: Source) -> tuple[list[tuple[Found, Path]], list[str]]:
    """(the sound files with labels and parts by their folders, what was left out). DataError for a
    folder without any."""
    if any(path.startswith("hf:") for path in source.paths):
        raise DataError(f"--data {source.describe()}: --task audio reads files and folders")
    pairs, left = list[tuple[Found, Path]](), list[str]()
    for one in source.each():
        name = one.paths[0]
        folder = Path(name)
        if name != "-" and folder.is_dir():
            _folder(folder, name, pairs, left)
            continue
        for path in one.files(archives=False):
            if is_archive(path):
                _folder(extracted(path), str(path), pairs, left)
            else:
                pairs.append((Found(shown(path)), unpacked(path)))
    return pairs, left


def _folder(root: Path, display: str, pairs: list[tuple[Found, Path]], left: list[str]) -> None:
    files = [
        p
        for p in Source((str(root),)).files(archives=False)
        if JUNK not in p.relative_to(root).parts
    ]
    inside = {p: p.relative_to(root).parts for p in files if _has_sound(p)}
    if not inside:
        raise DataError(f"--data {display}: contains no sound files (known: {', '.join(SUFFIXES)})")
    stray = []
    for path, place in places(inside).items():
        name = f"{display.rstrip('/')}/{'/'.join(inside[path])}"
        if place.stray:
            stray.append(name)
        else:
            pairs.append((Found(name, place.label, place.part), path))
    left += listed(stray, "beside the folders of train and test")
    others = ["/".join(p.relative_to(root).parts) for p in files if p not in inside]
    left += listed(others, "no sound file")


def _has_sound(path: Path) -> bool:
    """By its name, or else by its first bytes."""
    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as file:
        return is_sound(file.read(16))


# -- what was found ------------------------------------------------------------------------------


def _describe(
    found: list[Found], heard: list[Heard], rate: int, samples: int, position: str, left: list[str]
) -> Description:
    """One line and one object: how many of what, what was changed, what was left out."""
    labels = Counter(one.label for one in found)
    missing = labels.pop(None, 0)
    names = label_names(labels)
    parts = Counter(one.part for one in found)
    first = f"{counted(len(found))}, {samples / rate:,.1f} s at {rate:,} Hz"
    if len(parts) > 1:
        in_order = [name for name in ("train", "valid", "test") if parts[name]]
        first += f" ({', '.join(f'{name} {parts[name]:,}' for name in in_order)})"
    if names:
        some = ", ".join(names[:SHOWN_LABELS]) + (" ..." if len(names) > SHOWN_LABELS else "")
        plural = "" if len(names) == 1 else "s"
        first += f", {len(names):,} label{plural} ({some}) {PLACES[position]}"
        if missing:
            unlabelled = [one.name for one in found if one.label is None]
            first += "; " + listed(unlabelled, "without a label")[0]
    rates = Counter(each.rate for each in heard)
    silent = [one.name for one, each in zip(found, heard, strict=True) if each.silent]
    clipped = [one.name for one, each in zip(found, heard, strict=True) if each.clipped]
    changes = {
        f"resampled from {each:,} Hz": count
        for each, count in sorted(rates.items())
        if each != rate
    }
    for channels, count in sorted(Counter(each.channels for each in heard).items()):
        if channels > 1:
            changes[f"of {channels} channels mixed to one"] = count
    loud = sum(each.loud for each in heard)
    if loud:
        changes["beyond full scale scaled down"] = loud
    texts = [first, *(f"{count:,} {name}" for name, count in changes.items())]
    texts += listed(silent, "silent") + listed(clipped, "clipped at full scale")
    if left:
        texts.append(f"left out: {'; '.join(left)}")
    record = {
        "clips": len(found),
        "seconds": samples / rate,
        "rate": rate,
        "rates": {str(each): count for each, count in sorted(rates.items())},
        "labels": {name: labels[name] for name in names},
        "label_position": position,
        "unlabelled": missing,
        "parts": {name: count for name, count in sorted(parts.items()) if name},
        "changed": changes,
        "silent": silent,
        "clipped": clipped,
        "left_out": left,
    }
    return Description(("; ".join(texts),), record)
