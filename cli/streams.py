"""The three standard streams, also where the caller has closed one (`tfm ... >&-`).

Imported first by `tfm`, so it imports nothing heavy.
"""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """Opens the standard streams that are closed: input as an empty one, errors as one that nobody
    reads, output as one where writing fails, so that a lost result is an error. Otherwise the next
    file that is opened would take the number of a stream, and its content would be printed to.

    Names of files that are not UTF-8 are printed as the bytes that they are."""
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)  # the lowest number that is free
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="surrogateescape")
