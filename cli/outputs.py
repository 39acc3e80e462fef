"""Where samples go: to stdout, to one file, or each to a file of its own."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import UsageError, writing
from ..core.task import Task

NUMBER = re.compile(r"\{n(?::0?(\d+)d?)?\}")  # {n}, {n:4}, {n:04d}
DIGITS = 4  # of the numbers of files in a folder


class Output:
    """`--out`: a file, a name with {n} for one file a sample, a folder, or stdout (None, `-`).

    stream: receives texts and JSON records in order. A task with `file_types` has items that cannot
    follow one another in a file, such as pictures: all samples become one file, or one each.
    """

    def __init__(
        self, target: str | None, task: Task, as_json: bool, sampling: Any, force: bool
    ) -> None:
        """force: whether existing files are overwritten. UsageError for a target that cannot be
        written, before anything is sampled."""
        from ..core.files import check_output

        self.force = force
        self.task, self.as_json, self.sampling = task, as_json, sampling
        self.path = Path(target) if target not in (None, "-") else None
        self.pattern = target if target and NUMBER.search(target) else None
        self.new_folder = False  # the folder is made with the first file
        self.count = 0  # samples so far
        self.items: list[Any] = []  # of one file, until it is written
        self.prompt: Any = None  # of the first of them
        self.records: list[dict[str, Any]] = []
        types = task.file_types
        if self.path is not None and (os.path.isdir(self.path) or str(target).endswith("/")):
            suffix = types[0] if types else ".bin" if task.binary else ".txt"
            self.pattern = str(self.path / f"{{n:0{DIGITS}d}}{suffix}")
            self.new_folder = not os.path.isdir(self.path)
        if self.pattern and task.draws_files:
            raise UsageError(f"--out {target}: all series are one file; name it without {{n}}")
        self.to_json_file = (
            as_json
            and self.path is not None
            and not self.pattern
            and (not types or self.path.suffix in (".json", ".jsonl"))
        )
        self.suffix = Path(self.pattern or target or "").suffix.lower()
        known = not self.suffix or self.suffix in types or self.to_json_file
        if types and self.path is not None and not known:
            raise UsageError(f"--out {target}: must end in {', '.join(types)}")
        if self.pattern and not self.new_folder:
            check_output(Path(self._name(0)), force)
        elif self.path is not None and not self.pattern:
            check_output(self.path, force)
        # text and records go straight to stdout, unless they are for the file
        buffered = self.path is not None and not self.pattern and (not as_json or self.to_json_file)
        self.stream: BinaryIO = io.BytesIO() if buffered else sys.stdout.buffer

    @property
    def on_terminal(self) -> bool:
        return self.stream is sys.stdout.buffer and sys.stdout.isatty()

    @property
    def separate(self) -> bool:
        """Whether items are written by `add` rather than to `stream`."""
        return bool(self.pattern or (self.task.file_types and not self.to_json_file))

    def add(self, items: list[Any], prompt: Any, records: list[dict[str, Any]]) -> None:
        """Samples of one prompt, and their JSON records."""
        files: list[str | None] = [str(self.path) if self.path is not None else None] * len(items)
        if self.pattern:
            files = [self._write_one(item, prompt) for item in items]
        elif not self.as_json or self.path is not None:  # for one file of all
            self.items += items
            self.prompt = self.prompt or prompt
        for record, file in zip(records, files, strict=True):
            record["file"] = file
        if self.as_json and not self.items:
            self._print(records)
        elif self.as_json:  # after the file that they name
            self.records += records

    def _write_one(self, item: Any, prompt: Any) -> str:
        from ..core.files import check_output

        name = self._name(self.count)
        self.count += 1
        if self.new_folder:
            with writing(Path(name).parent):
                Path(name).parent.mkdir(exist_ok=True)
        check_output(Path(name), self.force)
        self._write([item], prompt, Path(name))
        return name

    def _name(self, count: int) -> str:
        """The name of the file of a sample, counted from 0."""
        return NUMBER.sub(
            lambda found: str(count).rjust(int(found[1] or 0), "0" if ":0" in found[0] else " "),
            self.pattern or "",
        )

    def _write(self, items: list[Any], prompt: Any, path: Path) -> None:
        from ..core.files import write_out

        data = io.BytesIO()
        self.task.write_as(self.suffix, items, prompt, self.sampling, data)
        write_out(path, data.getvalue())

    def _print(self, records: list[dict[str, Any]]) -> None:
        self.stream.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
        self.stream.flush()

    def close(self) -> None:
        """Writes the file of all samples, if there is one, and then the records that name it."""
        from ..core.files import write_out

        if self.items:
            if self.path is not None:
                self._write(self.items, self.prompt, self.path)
            else:
                self.task.write_as("", self.items, self.prompt, self.sampling, self.stream)
                self.stream.flush()
        elif isinstance(self.stream, io.BytesIO) and self.path is not None:
            self._print(self.records)
            write_out(self.path, self.stream.getvalue())
            return
        self._print(self.records)
