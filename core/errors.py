"""The exceptions of tfm, with the exit code of the command line for each.

TfmError                1  a failure while running
├── UsageError          2  invalid flags
│   └── ConfigError     2  an invalid value of a config field, named in the message
├── DataError           2  data that cannot be read or used
├── DamagedError        3  a file of tfm whose bytes have changed since it was written
├── DivergedError       4  training diverged
└── AnswerNo            5  the command checked a condition, and it does not hold

A message is one line: what is wrong, where, and what to do.
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
    """Turns an OSError into a TfmError that names `path`: that of a full disk names no file."""
    try:
        yield
    except OSError as error:
        raise TfmError(f"{about}{path}: cannot be written ({error.strerror})") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: 'did you mean a or b?', or all names if none is similar."""
    known = sorted(known)
    similar = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if similar:
        return f"did you mean {' or '.join(similar)}?"
    return f"known: {', '.join(known)}"
