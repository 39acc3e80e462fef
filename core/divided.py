"""Work that several processes divide: the leading one runs a command, the others compute for it.

The leading process does all that one process alone would: it reads, decides, writes and talks.
Where its code comes to `divided`, it hands a unit of work to each process, takes one itself, and
receives the results in order. The others wait in `serve`. They have the same things (a model, its
tokenizer) as the leading process, so only the units and their results travel: arrays, and what
JSON has.

A unit is computed as by one process alone, so that a result has the same bits, as long as the
processes compute with the same kind of device and the same number of threads.
"""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import TfmError

Unit = dict[str, Any]  # by name: arrays, and what JSON has
Work = Callable[..., Unit]
PACKAGE = __name__.partition(".")[0]  # has all functions that others may be asked for
JSON = " json"  # the name of the fields that are no arrays, in a message


class Messenger(Protocol):
    """Several processes, see core/train/peers.py. This one is number `rank` of `size`."""

    rank: int
    size: int

    def send(self, data: bytes, rank: int) -> None:
        """Sends bytes to a process that waits in `receive`."""

    def receive(self, rank: int) -> bytes:
        """The next bytes from that process."""
        ...


@dataclass
class _Others:
    """What the leading process knows of the others."""

    messenger: Messenger
    things: tuple[object, ...]  # that all have
    busy: bool = False  # they compute, or have results that were not received


_others: ContextVar[_Others | None] = ContextVar("others", default=None)


def processes() -> int:
    """The number of processes that `divided` would divide work among: 1 in one alone."""
    others = _others.get()
    return 1 if others is None else others.messenger.size


def divided(work: Work, things: tuple[object, ...], units: Iterable[Unit]) -> Iterator[Unit]:
    """work(*things, **unit) of each unit, in order. As many units as there are processes are
    computed at a time; one process alone computes each when it is asked for.

    work: a function of this package, which several processes call by its name. things: where they
    are not those of `leading`, such as a part of a model, this process computes all units."""
    others, units = _others.get(), iter(units)
    shared = {} if others is None else {id(each): n for n, each in enumerate(others.things)}
    if others is None or any(id(thing) not in shared for thing in things):
        for unit in units:
            yield work(*things, **unit)
        return
    messenger = others.messenger
    asked = {
        "work": f"{work.__module__}:{work.__name__}",
        "things": [shared[id(thing)] for thing in things],
    }
    while some := list(itertools.islice(units, messenger.size)):
        others.busy = True
        for rank, unit in enumerate(some[1:], 1):
            messenger.send(packed({**unit, **asked}), rank)
        found = [work(*things, **some[0])]
        found += [unpacked(messenger.receive(rank)) for rank in range(1, len(some))]
        others.busy = False
        yield from found


@contextmanager
def leading(messenger: Messenger, *things: object) -> Iterator[None]:
    """Divides the work within among the processes; the others `serve` with equal things. Of one
    process nothing changes."""
    if messenger.size == 1:
        yield
        return
    others = _Others(messenger, things)
    token = _others.set(others)
    try:
        yield
    except Exception:
        _dismiss(others)
        raise
    else:
        _dismiss(others)
    finally:  # where a signal ends this process none is told, as that might wait for a stuck one
        _others.reset(token)


def _dismiss(others: _Others) -> None:
    """Tells the others that there is no more work. Of busy ones this process has not received all:
    it is ending, and they end when it has."""
    with suppress(TfmError):  # all that they were needed for is done, so one may be gone
        for rank in range(1, 1 if others.busy else others.messenger.size):
            others.messenger.send(b"", rank)


def serve(messenger: Messenger, *things: object) -> None:
    """Computes what the leading process hands out, until that leaves `leading`."""
    while message := messenger.receive(0):
        unit = unpacked(message)
        module, _, name = unit.pop("work").partition(":")
        if not module.startswith(f"{PACKAGE}."):
            raise TfmError(f"{module}: not a module of {PACKAGE}")
        work: Work = getattr(importlib.import_module(module), name)
        some = [things[place] for place in unit.pop("things")]
        messenger.send(packed(work(*some, **unit)), 0)


# -- messages ------------------------------------------------------------------------------------


def packed(fields: Mapping[str, Any]) -> bytes:
    """The fields as bytes: those of safetensors, with all that is no array in one of bytes."""
    import numpy as np
    from safetensors.numpy import save

    arrays = {k: np.ascontiguousarray(v) for k, v in fields.items() if isinstance(v, np.ndarray)}
    text = json.dumps({name: value for name, value in fields.items() if name not in arrays})
    return bytes(save({**arrays, JSON: np.frombuffer(text.encode(), np.uint8)}))


def unpacked(data: bytes) -> Unit:
    """The fields of `packed`; a tuple has become a list."""
    from safetensors.numpy import load

    arrays = load(data)
    return {**json.loads(arrays.pop(JSON).tobytes()), **arrays}
