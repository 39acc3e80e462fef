"""Requests to a running training, for example from a signal handler. Imports no torch."""

from dataclasses import dataclass


@dataclass
class Controls:
    """Flags that `fit` checks after each step."""

    stop: int = 0  # save and stop, without the final score; above 0: the signal that asks for it
    save: bool = False  # save and continue
