"""Prompts: one from `-p`, or records of standard input as they arrive."""

from __future__ import annotations

import hashlib
import json
import queue
import sys
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import DataError

BLOCK = 1 << 16  # bytes read at once, at most
AHEAD = 16  # blocks read before they are asked for, at most


@dataclass(frozen=True)
class Prompt:
    data: bytes | None  # none: the task's own beginning
    id: str | None = None
    where: str | None = None  # it was read, for messages

    @property
    def key(self) -> str:
        """What randomness hangs on: the id, else the prompt itself."""
        return self.id if self.id is not None else hashlib.sha256(self.data or b"").hexdigest()


class Arriving:
    """The records of a stream, as they arrive: a thread reads ahead, a few blocks at most.

    A line's CR is left out with its LF. With `limit`, a longer record comes in pieces of about so
    many bytes, none cut inside a UTF-8 character.
    """

    def __init__(self, stream: BinaryIO, end: bytes = b"\n", limit: int | None = None) -> None:
        self.stream, self.separator, self.limit = stream, end, limit
        self.over = False
        self._blocks: queue.Queue[bytes | OSError] = queue.Queue(AHEAD)
        self._records: deque[tuple[bytes, bool]] = deque()
        self._parts: list[bytes] = []  # of a record that has not ended
        self._size = 0
        threading.Thread(target=self._read, daemon=True).start()

    def take(self, wait: float | None = None) -> tuple[bytes, bool] | None:
        """The next record, and whether it ends here; none where there is none within `wait`
        seconds (none: however long it takes) or where the stream is `over`."""
        while not self._records and not self.over:
            try:
                block = self._blocks.get(wait != 0, wait)
            except queue.Empty:
                return None
            if isinstance(block, OSError):
                raise DataError(f"standard input: {block.strerror}") from block
            self._add(block)
        return self._records.popleft() if self._records else None

    def _read(self) -> None:
        try:
            while block := self.stream.read1(BLOCK):  # type: ignore[attr-defined]
                self._blocks.put(block)
            self._blocks.put(b"")
        except OSError as error:
            self._blocks.put(error)

    def _add(self, block: bytes) -> None:
        *ended, rest = block.split(self.separator)
        for part in ended:
            data = b"".join((*self._parts, part))
            self._parts, self._size = [], 0
            self._records.append((data.removesuffix(b"\r") if self._lines else data, True))
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
        if not block:
            self.over = True
            if self._parts:
                self._records.append((b"".join(self._parts), True))
        elif self.limit and self._size >= self.limit:
            data = b"".join(self._parts)
            cut = whole_characters(data)
            self._records.append((data[:cut], False))
            self._parts, self._size = [data[cut:]], len(data) - cut

    @property
    def _lines(self) -> bool:
        return self.separator == b"\n"


def whole_characters(data: bytes) -> int:
    """How many bytes of `data` come before a UTF-8 character or a CR that may go on behind it."""
    if data.endswith(b"\r"):
        return len(data) - 1
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:  # it begins a character of 2 to 4 bytes
            length = 2 + (byte >= 0xE0) + (byte >= 0xF0)
            return len(data) - back if length > back else len(data)
        if byte < 0x80:
            break
    return len(data)


def piped() -> BinaryIO | None:
    """Standard input, where it is no terminal."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return None
    return sys.stdin.buffer


def one_prompt(given: str | None, is_file: bool) -> Prompt | None:
    """The prompt of `-p TEXT`, `@FILE` or `-`; none where each line piped is one. `is_file`:
    prompts are files, named or piped. DataError for a file that cannot be read."""
    if given is None:
        stream = piped()
        if stream is not None and not is_file:
            return None
        return Prompt(stream.read() or None) if stream is not None else Prompt(None)
    if given == "-":
        return Prompt(sys.stdin.buffer.read())
    if not is_file and not given.startswith("@"):
        return Prompt(given.encode("utf-8", "surrogateescape"))
    try:
        return Prompt(Path(given.removeprefix("@")).read_bytes())
    except OSError as error:
        raise DataError(f"-p {given}: {error.strerror}") from error


class Lines:
    """The prompts that are piped, a line, a NUL-ended text or a JSON line each."""

    def __init__(self, null: bool, json_in: bool) -> None:
        stream = piped()
        assert stream is not None
        self.arriving = Arriving(stream, b"\0" if null else b"\n")
        self.null, self.json_in, self.number = null, json_in, 0
        self.first: Prompt | None = None

    def any(self) -> bool:
        """Waits for the first, and says whether there is one."""
        self.first = self.take(wait=True)
        return self.first is not None

    def take(self, wait: bool) -> Prompt | None:
        """The next; none where there is none yet or, having waited, no more. DataError for a line
        that is no prompt."""
        if self.first is not None:
            prompt, self.first = self.first, None
            return prompt
        record = self.arriving.take(None if wait else 0)
        if record is None:
            return None
        self.number += 1
        where = f"standard input, {'record' if self.null else 'line'} {self.number}"
        return json_prompt(record[0], where) if self.json_in else Prompt(record[0], None, where)


def json_prompt(line: bytes, where: str) -> Prompt:
    try:
        record: Any = json.loads(line)
        data = record["prompt"].encode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: must be a JSON object with a text `prompt`") from error
    return Prompt(data, None if record.get("id") is None else str(record["id"]), where)
