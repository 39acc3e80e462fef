"""Writes a folder of tokenized data, see prepared_folder.py.

It is written under another name, .DIR.partial, and renamed when it is complete. If writing begins
again, shards that are complete are kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..config import tfm_version
from ..data.sequence_store import write_store
from ..data.shards import ITEM_BYTES, PREPARED, SHARDS, Piece, ids_dtype, is_prepared, write_shard
from ..data.source import Source
from ..errors import DamagedError, DataError, UsageError, writing
from ..files import (
    FORMAT,
    file_sha256,
    log_line,
    read_log,
    sync_folder,
    to_json,
    write_checked,
    write_durably,
)
from ..plugins import find, guess_task, name_of
from ..runs.tokenizer_files import write_tokenizer
from .prepare import Data, floor_of, read_data
from .prepared_folder import tokenizer_hash, without_folder
from .request import Note, Request

DONE = "shards.jsonl"  # in a folder that is being written: its complete shards
LOCK = "lock"
Progress = Callable[[int, int], None]  # units done, and in all


def write_prepared(
    request: Request, folder: Path, shard_size: int, note: Note, progress: Progress
) -> dict[str, Any]:
    """Reads, splits and tokenizes the data of a request into a new folder, and returns what
    prepared.json has. shard_size: of the training items of a shard, in units of the task.

    UsageError if the folder exists, another process writes it, or the task cannot be prepared;
    DataError and ConfigError as in `read_data`; TfmError if it cannot be written.
    """
    if os.path.lexists(folder):
        raise UsageError(f"--out {folder}: already exists; choose another name")
    if any(map(is_prepared, request.data)):
        raise UsageError(f"--data {request.data[0]}: prepared already; copy the folder instead")
    name = request.task or "text"
    if request.task is None and request.data:
        name = guess_task(Source(request.data, request.column)).task
    if not find("tasks", name).prepares:
        raise UsageError(
            f"--task {name}: cannot be prepared, as only text and bytes are tokenized ahead of "
            "training; give this data to `tfm train` itself"
        )
    data = read_data(request, note)
    identity = _identity(data, shard_size)
    partial = folder.with_name(f".{folder.name}.partial")
    with writing(folder, "--out "):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(exist_ok=True)
        with _locked(partial, folder):
            done = _done(partial, identity, note)
            shards = _write_shards(data, partial, shard_size, done, progress)
            about = _write_rest(data, request, partial, shards)
        if os.path.lexists(folder):
            raise UsageError(f"--out {folder}: already exists; choose another name")
        partial.rename(folder)
        sync_folder(folder.parent)
    for name in (DONE, LOCK):
        (folder / name).unlink(missing_ok=True)
    return about


def _identity(data: Data, shard_size: int) -> str:
    """A hash of everything that the shards depend on."""
    about = [
        FORMAT,
        data.task.name,
        asdict(data.task.options),
        data.train.fingerprint,
        tokenizer_hash(data.tokenizer),
        shard_size,
    ]
    return hashlib.sha256(to_json(about)).hexdigest()


@contextmanager
def _locked(partial: Path, folder: Path) -> Iterator[None]:
    """Makes this process the only writer of a folder. UsageError if there is another one."""
    import filelock

    lock = filelock.FileLock(partial / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UsageError(f"--out {folder}: another process is preparing it") from None
    try:
        yield
    finally:
        lock.release()


def _done(partial: Path, identity: str, note: Note) -> list[dict[str, Any]]:
    """The entries of the complete shards in a folder that was not finished, if they are those of
    the same data; all others are deleted."""
    try:
        entries = list(read_log(partial / DONE))
        kept = entries[1:] if entries[:1] == [{"identity": identity}] else []
        for entry in kept:
            for name, (size, _) in entry["files"].items():
                if (partial / name).stat().st_size != size:
                    raise DamagedError(f"{partial / name}: damaged")
    except (DamagedError, OSError, KeyError, TypeError, ValueError):
        kept = []
    if kept:
        note(f"going on after {len(kept):,} complete shards")
        lines = [log_line(entry) for entry in ({"identity": identity}, *kept)]
        write_durably(partial / DONE, "".join(lines).encode())  # a kill can leave half a line
        return kept
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    _append(partial, {"identity": identity})
    return []


def _append(partial: Path, entry: Mapping[str, Any]) -> None:
    with (partial / DONE).open("a") as file:
        file.write(log_line(entry))
        file.flush()
        os.fsync(file.fileno())


def _write_shards(
    data: Data, partial: Path, shard_size: int, done: list[dict[str, Any]], progress: Progress
) -> list[dict[str, Any]]:
    """The entries of all shards; those that are not `done` are written."""
    place, written, total = partial / SHARDS, 0, data.train.size
    place.mkdir(exist_ok=True)
    found: list[dict[str, Any]] = []
    for number, (units, pieces) in enumerate(
        data.task.pieces(data.train, data.tokenizer, shard_size)
    ):
        if number < len(done):
            found.append(done[number])
        else:
            shown = _shown(pieces, written, total, progress)
            paths = write_shard(place, number, shown, data.tokenizer.vocab_size)
            files = {f"{SHARDS}{p.name}": [p.stat().st_size, file_sha256(p)] for p in paths}
            entry = {
                "file": f"{SHARDS}{paths[0].name}",
                "sequences": paths[1].stat().st_size // ITEM_BYTES,
                "ids": paths[0].stat().st_size // ids_dtype(data.tokenizer.vocab_size).itemsize,
                data.task.unit + "s": units,
                "files": files,
            }
            _append(partial, entry)
            found.append(entry)
        written += units
        progress(written, total)
    return found


def _shown(pieces: Iterable[Piece], done: int, total: int, progress: Progress) -> Iterator[Piece]:
    """The pieces, with the progress after each."""
    for piece in pieces:
        yield piece
        done += piece.size
        progress(done, total)


def _write_rest(
    data: Data, request: Request, partial: Path, shards: list[dict[str, Any]]
) -> dict[str, Any]:
    """Writes everything but the shards, prepared.json last, and returns its content."""
    task, tokenizer = data.task, data.tokenizer
    parts = {"heldout": data.held}
    if "test" not in data.held:
        try:
            parts["halves"] = dict(
                zip(("valid", "report"), task.halves(data.held["valid"]), strict=True)
            )
        except DataError:  # too few items
            pass
    for name in ("heldout", "halves"):
        shutil.rmtree(partial / name, ignore_errors=True)
    for path in (*partial.glob("tokenizer.*"), *partial.glob(".*.new")):
        path.unlink()
    write_tokenizer(partial, tokenizer)
    splits: dict[str, dict[str, Any]] = {}
    floor: dict[str, dict[str, float]] = {}
    for name, held in parts.items():
        sequences = {split: list(task.sequences(part, tokenizer)) for split, part in held.items()}
        for split, each in sequences.items():
            write_store(partial / name / split, each, tokenizer.vocab_size)
        splits[name] = {split: [part.size, part.fingerprint] for split, part in held.items()}
        final, found, _ = floor_of(task, data.train, held, sequences, tokenizer, False)
        floor[final] = found
    written = [
        *partial.glob("tokenizer.*"),
        *(p for n in parts for p in (partial / n).rglob("*.*")),
    ]
    files = {
        path.relative_to(partial).as_posix(): [path.stat().st_size, file_sha256(path)]
        for path in written
    }
    for entry in shards:
        files |= entry["files"]
    about = {
        "format": FORMAT,
        "tfm": tfm_version(),
        "task": task.name,
        "task_options": asdict(task.options),
        "tokenizer": {
            "spec": without_folder(data.tokenizer_spec),
            "kind": name_of("tokenizers", type(tokenizer)),
            "vocab_size": tokenizer.vocab_size,
        },
        "column": request.column,
        "holdout": request.holdout,
        "fingerprint": data.train.fingerprint,
        "size": data.train.size,
        "unit": task.unit,
        "figures": task.figures(data.train, tokenizer),
        "splits": splits,
        "floor": floor,
        "read": data.description.record if data.description else None,
        "shards": [{k: v for k, v in entry.items() if k != "files"} for entry in shards],
        "files": files,
    }
    write_checked(partial / PREPARED, about)
    return about
