"""Requests to a running training, as from a signal handler. Imports no torch."""

from dataclasses import dataclass


@dataclass
class Controls:
    """`fit` reads them after each step."""

    stop: bool = False  # save a checkpoint and end, without the final score
    save: bool = False  # save a checkpoint and continue
