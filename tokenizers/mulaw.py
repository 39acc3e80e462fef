"""Audio as one id a sample: the mu-law code (ITU-T G.711; van den Oord et al. 2016, section 2.2).

The ids are the codes, so the likelihood of the ids is that of sound in 8 (or fewer) bits a sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import ConfigError
from ..core.protocols import Ids
from ._clips import FIRST_ID, ClipTokenizer, Samples

CODES = 256


def compress(samples: Samples, codes: int) -> npt.NDArray[np.uint8]:
    """The mu-law codes (T,) of samples in -1 ... 1, mu = codes - 1."""
    mu = codes - 1
    companded = np.sign(samples) * np.log1p(mu * np.abs(samples.astype(np.float64))) / np.log1p(mu)
    found: npt.NDArray[np.uint8] = np.rint((np.clip(companded, -1, 1) + 1) / 2 * mu).astype("u1")
    return found


def expand(found: npt.NDArray[np.integer], codes: int) -> Samples:
    """The samples of mu-law codes."""
    mu = codes - 1
    companded = found / mu * 2 - 1
    wide = np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(mu)) / mu
    samples: Samples = wide.astype(np.float32)
    return samples


class MulawTokenizer(ClipTokenizer):
    """Lossless for clips whose samples are values of codes."""

    lossless = True

    def __init__(
        self,
        rate: int,
        codes: int = CODES,
        longest: int = 0,
        labels: tuple[str, ...] = (),
        label_position: str = "none",
    ) -> None:
        super().__init__(rate, (codes,), longest, labels, label_position)
        self.codes = codes
        self.ordered = (self.sound_ids,)

    def ids_of(self, samples: Samples) -> Ids:
        return compress(samples, self.codes).astype(np.int64) + FIRST_ID

    def samples_of(self, ids: Ids) -> Samples:
        return expand(ids - FIRST_ID, self.codes)

    def count(self, samples: int) -> int:
        return samples

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        return super().state()[0] | {"codes": self.codes}, {}

    @classmethod
    def from_state(
        cls, state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]
    ) -> MulawTokenizer:
        return cls(**{**state, "labels": tuple(state["labels"])})


def parse(spec: str) -> int:
    """The number of codes of a `--tokenizer` value, mulaw or mulaw:N. ConfigError otherwise."""
    _, colon, argument = spec.partition(":")
    codes = int(argument) if argument.isdecimal() else CODES
    if (colon and not argument.isdecimal()) or not 4 <= codes <= CODES:
        raise ConfigError(f"--tokenizer {spec}: known: mulaw, mulaw:N (4 to {CODES} codes)")
    return codes


Tokenizer = MulawTokenizer
