"""Audio: one mu-law id a sample, or a codebook of short-time spectra."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..core.data.datasets import too_long
from ..core.data.source import Source
from ..core.errors import DataError, UsageError
from ..core.protocols import Ids, Sequence
from ..core.task import Description
from ..tokenizers._clips import Clip, ClipTokenizer
from ..tokenizers.mulaw import CODES, MulawTokenizer
from ._audio.baselines import floors
from ._audio.clips import Clips
from ._audio.display import FILE_TYPES, file_bytes, terminal_waveform
from ._audio.generated import ABOUT, generated_clips
from ._audio.illustration import illustration, labels
from ._audio.options import AudioOptions, AudioSampling
from ._audio.prompts import prompt_clip
from ._audio.reading import read_clips
from ._audio.recordings import SUFFIXES, is_sound
from ._audio.rows import ClipRows, longest
from ._audio.tokenizer import distortion, fit
from ._labelled.folders import listed
from ._labelled.task import LabelledTask

HOLDOUT = 0.1
# of clips that can be cut, by default: with one id a sample, longer ones cost more than they give
MAX_CONTEXT = {True: 255, False: 1023}  # whether one id is a sample
PREVIEWED = 3  # samples in a terminal
DROPOUT = ((500_000, 0.3), (4_000_000, 0.1))  # (training ids at most, dropout rate)


class AudioTask(LabelledTask):
    name = "audio"
    about = "sound: WAV, FLAC, Ogg and MP3 files, in folders and archives"
    unit = "sample"
    default_tokenizer = "mulaw"
    binary = True
    file_types = FILE_TYPES
    Options = AudioOptions
    SampleOptions = AudioSampling
    options: AudioOptions

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        return 0.9 if path.name.lower().endswith(SUFFIXES) or is_sound(head[:16]) else 0.0

    def default_source(self) -> Source:
        return Source((), about=ABOUT)

    # -- items -------------------------------------------------------------------------------

    def items(self, source: Source) -> Clips:
        if not source.paths:
            return generated_clips(self.options)
        return read_clips(source, self.options)

    def describe(self, items: Clips) -> Description:
        return items.description

    def parts(self, items: Clips) -> dict[str, Clips]:
        return items.parts()

    @classmethod
    def init_options(cls, options: AudioOptions, tokenizer: ClipTokenizer) -> dict[str, object]:
        return {"rate": tokenizer.rate, "labels": tokenizer.label_position}

    def conform(self, items: Clips, tokenizer: ClipTokenizer, note: Callable[[str], None]) -> Clips:
        """The clips at the rate of the run. DataError for labels that the run does not know."""
        if items.rate != tokenizer.rate:
            note(f"resampled from {items.rate:,} Hz to the {tokenizer.rate:,} of the run")
        if tokenizer.label_position != "none":
            unknown = [name for name in items.names() if name not in tokenizer.labels]
            if unknown:
                raise DataError(
                    f"{listed(unknown, 'labels that the run does not know')[0]}; it knows "
                    f"{', '.join(tokenizer.labels[:12])}"
                )
        return replace(items.at_rate(tokenizer.rate), label_position=tokenizer.label_position)

    def split(self, items: Clips, holdout: float | None) -> tuple[Clips, Clips]:
        return items.split(HOLDOUT if holdout is None else holdout)

    def halves(self, held: Clips) -> tuple[Clips, Clips]:
        return held.split(0.5, "halves")

    def floor(self, train: Clips, held: Clips) -> dict[str, float]:
        return floors(train, held, CODES)

    def baselines(
        self,
        train: Clips,
        held: Clips,
        windows: Iterable[Sequence],
        tokenizer: ClipTokenizer,
        quick: bool,
    ) -> tuple[dict[str, float], bool]:
        """Of the codes of the tokenizer, where ids are codes."""
        codes = tokenizer.codes if isinstance(tokenizer, MulawTokenizer) else CODES
        return floors(train, held, codes), False

    # -- ids ---------------------------------------------------------------------------------

    def fit_tokenizer(self, spec: str, train: Clips) -> ClipTokenizer:
        return fit(spec, train, self.options)

    def about_tokenizer(self, spec: str, tokenizer: ClipTokenizer) -> str | None:
        return f"{tokenizer.count(tokenizer.rate):,} ids a second of sound ({spec})"

    def longest(self, train: Clips, tokenizer: ClipTokenizer) -> int | None:
        """A clip whose label comes last must be whole; others can be cut."""
        return self._whole(train, tokenizer) if tokenizer.label_position == "last" else None

    def _whole(self, train: Clips, tokenizer: ClipTokenizer) -> int:
        """The ids of the longest clip, however it is varied."""
        return tokenizer.length(longest(train.longest, self._varied(tokenizer)))

    def _varied(self, tokenizer: ClipTokenizer) -> bool:
        augment = self.options.augment
        return not tokenizer.lossless if augment is None else augment

    def defaults(self, train: Clips, tokenizer: ClipTokenizer) -> dict[str, dict[str, object]]:
        """Small data sets train for many epochs: dropout, rather than weight decay, limits
        overfitting. The context has the longest clip, up to a limit."""
        tokens = tokenizer.count(train.size)
        rate = next((rate for most, rate in DROPOUT if tokens <= most), 0.0)
        model: dict[str, object] = {"dropout": rate}
        if tokenizer.label_position != "last":
            most = MAX_CONTEXT[tokenizer.lossless]
            model["context"] = min(self._whole(train, tokenizer) - 1, most)
        return {"model": model, "train": {"weight_decay": 0.01}}

    def dataset(
        self,
        train: Clips,
        tokenizer: ClipTokenizer,
        context: int,
        tokens: int | None,
        seed: int,
        cache: Path,
    ) -> ClipRows:
        whole = self.longest(train, tokenizer)
        if whole is not None and whole > context + 1:
            raise too_long(whole, context)
        weight = self.options.label_weight
        if weight is not None and tokenizer.label_position == "none":
            raise UsageError("--label-weight: there are no labels to weigh (--labels none)")
        if weight is None:
            mean = tokenizer.count(train.size // len(train))
            weight = 1.0 if tokenizer.label_position == "first" else max(1.0, mean / 10)
        return ClipRows(train, tokenizer, context, weight, seed, self._varied(tokenizer))

    def sequences(self, items: Clips, tokenizer: ClipTokenizer) -> Iterator[Sequence]:
        """A last label counts in the score; a first one is given."""
        items = items.at_rate(tokenizer.rate)
        for clip, found in zip(items.clips(), items.found, strict=True):
            sequence = tokenizer.encode(clip)
            side = {**sequence.side, "id": found.name}
            if not tokenizer.lossless:
                side["distortion"] = distortion(clip, sequence.ids, tokenizer)
            yield replace(sequence, side=side)

    # -- scores ------------------------------------------------------------------------------

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        """Counts of samples and clips, and the summed distortion of steps in square dB."""
        total = {"sample": 0.0, "clip": 0.0, "step": 0.0, "distortion": 0.0}
        for sequence in sequences:
            side = sequence.side
            total["sample"] += side["samples"]
            total["clip"] += 1
            steps, error = side.get("distortion", (0, 0.0))
            total["step"] += steps
            total["distortion"] += error
        return total

    def metrics(
        self, nll: float, tokens: int, units: Mapping[str, float], lossless: bool
    ) -> dict[str, float | None]:
        """`spectral_distortion_db`: the root of the mean square error of the log spectra."""
        clips, steps = units.get("clip", 0), units.get("step", 0)
        error = (units["distortion"] / steps) ** 0.5 if steps else None
        return {
            "clips": clips,
            "nats_per_clip": nll / clips if lossless and clips else None,
            "spectral_distortion_db": error,
        }

    def model_metrics(
        self,
        model: Any,
        tokenizer: ClipTokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
        evaluation: Any,
    ) -> dict[str, Any]:
        """`rate`; with last labels, `accuracy`."""
        found = super().model_metrics(model, tokenizer, sequences, protocol, evaluation)
        found["rate"] = tokenizer.rate
        return found

    def incomparable(self, one: ClipTokenizer, other: ClipTokenizer) -> str | None:
        """Other rates and codes are other samples; a label costs bits, or is given."""
        for a, b in zip(_about(one), _about(other), strict=True):
            if a != b:
                return f"{a} against {b}"
        return None

    # -- what a person sees of ids -----------------------------------------------------------

    def to_read(
        self, data: bytes, tokenizer: ClipTokenizer, note: Callable[[str], None]
    ) -> Sequence:
        """A whole clip: its bytes, or the name of its file. UsageError for a run that puts a label
        before the sound."""
        if tokenizer.label_position == "first":
            raise UsageError("-p: this run reads a label before the sound; use --item N")
        return tokenizer.encode(prompt_clip(data, tokenizer.rate))

    def token_labels(self, ids: Ids, tokenizer: ClipTokenizer) -> list[str]:
        return labels(ids, tokenizer)

    def illustration(
        self, sequence: Sequence, tokenizer: ClipTokenizer, guesses: Ids, ids: Ids
    ) -> dict[str, Any]:
        return illustration(sequence, tokenizer)

    def show(self, sequence: Sequence, tokenizer: ClipTokenizer, width: int, colour: bool) -> str:
        """The waveform that the ids decode to."""
        clip = tokenizer.decode(sequence.ids, sequence.side)
        return terminal_waveform(clip.samples, clip.rate, width)

    def label(self, sequence: Sequence, tokenizer: ClipTokenizer) -> str | None:
        found = sequence.ids[[-1 if tokenizer.label_position == "last" else 1]]
        low, high = tokenizer.label_ids
        return tokenizer.labels[int(found[0]) - low] if low <= found[0] < high else None

    def content(self, sequence: Sequence, tokenizer: ClipTokenizer) -> Ids:
        return tokenizer.sound(sequence.ids)

    # -- samples -----------------------------------------------------------------------------

    def prompt(
        self, data: bytes | None, tokenizer: ClipTokenizer, sampling: AudioSampling
    ) -> Sequence:
        """`data`: a clip, or the name of its file, that the samples continue."""
        data = data or None  # an empty prompt is none
        given = 1 + (tokenizer.label_position == "first")
        most = tokenizer.longest
        if sampling.seconds is not None:
            most = tokenizer.count(max(1, round(sampling.seconds * tokenizer.rate)))
        side = tokenizer.side(None) | {"most": most}
        if sampling.label is not None and given == 1:
            raise UsageError(
                "--label: this run has no labels to sample by; train with --labels first"
            )
        if sampling.label is None and given == 2:
            if data is not None:
                raise UsageError(
                    "--label: needed to continue a clip, as this run puts labels first: "
                    f"{', '.join(tokenizer.labels[:12])}"
                )
            side["most"] += 2  # the label and the start token
            return Sequence(np.array([tokenizer.begin]), given, side=side)
        ids = [*tokenizer.header(sampling.label), tokenizer.start]
        if data is not None:
            ids += tokenizer.ids_of(prompt_clip(data, tokenizer.rate).samples).tolist()
        return Sequence(np.array(ids, np.int64), given, side=side)

    def new_tokens(self, prompt: Sequence, sampling: AudioSampling) -> int:
        return int(prompt.side["most"])

    def end_token(self, tokenizer: ClipTokenizer) -> int:
        return 0

    def write(
        self, items: list[Clip], prompt: Sequence | None, sampling: AudioSampling, out: BinaryIO
    ) -> None:
        out.write(file_bytes(items, ""))

    def write_as(
        self,
        suffix: str,
        items: list[Clip],
        prompt: Sequence | None,
        sampling: AudioSampling,
        out: BinaryIO,
    ) -> None:
        """All samples in one sound file, with a gap of silence between any two, or as a picture of
        their waveforms and spectrograms."""
        out.write(file_bytes(items, suffix))

    def record(self, item: Clip) -> dict[str, Any]:
        return {"label": item.label, "seconds": len(item.samples) / item.rate}

    def preview(
        self, items: list[Clip], prompt: Sequence | None, sampling: AudioSampling, width: int
    ) -> str:
        return "\n\n".join(
            "\n".join(
                ([clip.label] if clip.label is not None else [])
                + [terminal_waveform(clip.samples, clip.rate, width)]
            )
            for clip in items[:PREVIEWED]
        )


def _about(tokenizer: ClipTokenizer) -> tuple[str, str, str]:
    """What likelihoods depend on, for people."""
    codes = f"{tokenizer.codes} codes" if isinstance(tokenizer, MulawTokenizer) else "spectra"
    return f"{tokenizer.rate:,} Hz", codes, f"labels {tokenizer.label_position}"


Task = AudioTask
