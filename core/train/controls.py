"""Requests to a running training, for example from a signal handler. Imports no torch."""

from dataclasses import dataclass


@dataclass
class Controls:
    """Flags that `fit` checks after each step."""

    stop: bool = False  # save and stop, without the final score
    save: bool = False  # save and continue
