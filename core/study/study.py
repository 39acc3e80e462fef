"""`Study`: a folder of training runs that answer one question together.

study.json      the definition: the command and everything that it decided (the plan)
results.jsonl   one line a finished run, with a checksum
runs/NAME/      an ordinary run of `tfm train` for each job
lock, lock.pid  the process that works on the study, while there is one
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError, DamagedError, TfmError, UsageError, writing
from ..files import FORMAT, log_line, read_log, to_json, write_durably
from ..train.request import Request


@dataclass(frozen=True)
class Job:
    """A run to train. name: unique in the study, a legal name of a run; request: with a number of
    steps or tokens, not a budget; about: what tables group by, such as
    {"contestant": ..., "seed": ..., "lr": ..., "role": "sweep" | "score" | "equal-time"}."""

    name: str
    request: Request
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A finished job: a line of results.jsonl.

    status: "done" or "diverged"; scores: the final scores as `tfm eval --json` prints them, {} if
    diverged; tokens: positions that were trained on, steps * batch * context; parameters: of the
    whole model; flops_per_token: see `SequenceModel.flops_per_token`; seconds: of the optimiser
    steps alone; run: the path of the run, relative to the study's folder."""

    name: str
    about: Mapping[str, Any]
    status: str
    scores: Mapping[str, Any]
    steps: int
    tokens: int
    parameters: int
    flops_per_token: float
    seconds: float
    run: str


class Executor(Protocol):
    """Runs jobs in other processes, on this machine or on others."""

    def results(self, jobs: Sequence[Job], folder: Path) -> Iterator[Result]:
        """The result of each job of the study in `folder`, as they finish. TfmError names the run
        that failed."""
        ...

    def close(self) -> None:
        """Ends all processes at once."""
        ...


class Study:
    """An existing study. `definition`: the content of study.json."""

    def __init__(self, folder: Path, definition: dict[str, Any]) -> None:
        self.folder, self.definition = folder, definition
        self._lock: Any = None

    @classmethod
    def create(cls, folder: Path, definition: Mapping[str, Any]) -> Study:
        """A new study. UsageError if `folder` is there and not empty."""
        check_free(folder)
        study = cls(folder, {"format": FORMAT, **definition})
        with writing(folder, "--study "):
            (folder / "runs").mkdir(parents=True, exist_ok=True)
        study.lock()
        study.update()
        return study

    @classmethod
    def open(cls, folder: Path) -> Study:
        """An existing study, to continue it. UsageError if there is none, DamagedError if its
        definition cannot be read, ConfigError for one of a newer tfm."""
        path = folder / "study.json"
        try:
            definition: dict[str, Any] = json.loads(path.read_bytes())
            newer = definition["format"] > FORMAT
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"--resume {folder}: not a study (no study.json)") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"{path}: damaged ({error})") from error
        if newer:
            raise ConfigError(f"{path}: made by a newer tfm; upgrade")
        study = cls(folder, definition)
        study.lock()
        return study

    def update(self, **facts: Any) -> None:
        """Adds facts to the definition, and writes it."""
        self.definition |= facts
        path = self.folder / "study.json"
        with writing(path):
            write_durably(path, to_json(self.definition))

    def fact(self, name: str, compute: Callable[[], Any]) -> Any:
        """A fact of the definition: computed and written at first, read when the study goes on, so
        that every decision is made once."""
        if name not in self.definition:
            self.update(**{name: compute()})
        return self.definition[name]

    # locking

    def lock(self) -> None:
        """Makes this process the only one that works on the study, until `unlock` or its exit (even
        by a kill). UsageError if another one does."""
        import filelock

        if self._lock is not None:
            return
        lock, pid = filelock.FileLock(self.folder / "lock"), self.folder / "lock.pid"
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            holder = pid.read_text().strip() if pid.exists() else "of another tfm"
            raise UsageError(f"{self.folder}: process {holder} works on this study") from None
        except OSError as error:
            raise TfmError(f"{self.folder}: cannot be written ({error.strerror})") from error
        with writing(pid):
            pid.write_text(str(os.getpid()))
        self._lock = lock

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # results

    @property
    def _results_path(self) -> Path:
        return self.folder / "results.jsonl"

    def results(self) -> dict[str, Result]:
        """The finished jobs by name. DamagedError for a damaged line; a last line that a kill left
        incomplete is not counted."""
        found = {}
        for entry in read_log(self._results_path):
            entry.pop("check", None)
            try:
                found[entry["name"]] = Result(**entry)
            except TypeError as error:
                raise DamagedError(f"{self._results_path}: no result ({error})") from error
        return found

    def run(self, jobs: Sequence[Job], executor: Executor) -> Iterator[Result]:
        """Yields the result of every job once: those that are known, perhaps from a job of the same
        name that was about something else, then the others as they finish. A job that an earlier
        process left unfinished continues from its last checkpoint, with the same result to the bit.
        """
        names = [job.name for job in jobs]
        if len(set(names)) < len(names):
            raise ValueError(f"two jobs of one name: {sorted(names)}")
        known = self.results()
        self._rewrite(known.values())
        yield from (replace(known[j.name], about=j.about) for j in jobs if j.name in known)
        missing = [job for job in jobs if job.name not in known]
        for result in executor.results(missing, self.folder) if missing else ():
            with writing(self._results_path), self._results_path.open("a") as file:
                file.write(log_line(asdict(result)))
            yield result

    def _rewrite(self, results: Any) -> None:
        """Cuts off a last line that is incomplete, so that the next one starts on its own."""
        text = "".join(log_line(asdict(result)) for result in results)
        path = self._results_path
        if not path.exists() or path.read_text(errors="replace") != text:
            with writing(path):
                write_durably(path, text.encode())


def check_free(folder: Path) -> None:
    """UsageError if no study can be created at `folder`."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(
            f"--study {folder}: already exists; choose another name or continue it with --resume"
        )


def request_to_json(request: Request) -> dict[str, Any]:
    """The fields of a request without --init, as JSON, for the definition of a study."""
    if request.init is not None:
        raise ValueError("a study does not start from another run")
    return {name: value for name, value in asdict(request).items() if name != "init"}


def request_from_json(fields: Mapping[str, Any]) -> Request:
    """The request that `request_to_json` was given."""
    lists = {name: tuple(fields[name]) for name in ("data", "valid", "test")}
    return Request(**{**fields, **lists})


def finite(value: Any) -> Any:
    """A JSON value with null in place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return value
