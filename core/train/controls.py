"""What may be asked of a training from outside, as by a signal. Imports no torch."""

from dataclasses import dataclass


@dataclass
class Controls:
    """`fit` looks at them after each step."""

    stop: bool = False  # save and end, without the final score
    save: bool = False  # save and go on
