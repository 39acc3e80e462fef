"""Everything tfm raises on purpose, and the exit code each becomes.

TfmError                1  a failure while running
├── UsageError          2  flags that cannot be
│   └── ConfigError     2  a field's value, by its name
├── DataError           2  data that cannot be read or used
├── DamagedError        3  an artefact whose bytes are not what was written
├── DivergedError       4  training lost its footing
└── AnswerNo            5  the question was answered no

A message is one line: what, where, what to do.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class TfmError(Exception):
    exit_code = 1


class UsageError(TfmError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class DataError(TfmError):
    exit_code = 2


class DamagedError(TfmError):
    exit_code = 3


class DivergedError(TfmError):
    exit_code = 4


class AnswerNo(TfmError):
    exit_code = 5


@contextmanager
def writing(path: Path, about: str = "") -> Iterator[None]:
    """Any OSError as a TfmError that names `path`: of a full disk the system itself names none."""
    try:
        yield
    except OSError as error:
        raise TfmError(f"{about}{path}: cannot be written ({error.strerror})") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """', did you mean a, b?' or the known names where none is near: the end of an error line."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {', '.join(known)}"
