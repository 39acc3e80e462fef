"""How far a loop is, told to whoever shows it: commands set `showing`, libraries nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Show = Callable[[int, int, str], None]  # done, total, unit

_show: ContextVar[Show | None] = ContextVar("show", default=None)


@contextmanager
def showing(show: Show) -> Iterator[None]:
    """`show` receives the progress of `tracked` loops within."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)


def tracked(items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """The items; after each, how many of `total` are done. unit: what they are, as "windows"."""
    show = _show.get()
    for done, item in enumerate(items, 1):
        yield item
        if show is not None:
            show(done, total, unit)
