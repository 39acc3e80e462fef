"""The HuggingFace hub: its data sets, and whether it can be reached."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import Any

from ..errors import DataError

REACH_SECONDS = 2.0  # to wait for an answer of the hub


def look_for(name: str) -> bool:
    """Whether a name can be loaded: as a file or folder here, or from the hub. If the hub cannot be
    reached, its libraries are told to use what is on this machine only: they would repeat every
    request for a minute. Call it before importing them."""
    return os.path.exists(name) or _reachable()


@functools.cache
def _reachable() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    if _answers():
        return True
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    return False


def _answers() -> bool:
    """Whether the hub answers at all. A thread waits for it, as a lookup of its name has no time
    limit of its own."""
    import threading
    import urllib.error
    import urllib.request

    found: list[bool] = []

    def ask() -> None:
        url = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=REACH_SECONDS).close()
            found.append(True)
        except urllib.error.HTTPError:  # an answer
            found.append(True)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return bool(found)


def dataset(name: str, split: str) -> Iterable[Any]:
    """The rows of `NAME[:CONFIG]`, streamed by HuggingFace `datasets`. DataError."""
    path, _, config = name.partition(":")
    reachable = look_for(path)
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are raised as well
    try:
        rows: Iterable[Any] = datasets.load_dataset(
            path, config or None, split=split, streaming=True
        )
        return rows
    except Exception as error:  # `datasets` raises many types
        if not reachable:
            raise DataError(
                f"--data hf:{name}: not on this machine, and the HuggingFace hub cannot be reached"
            ) from error
        raise
