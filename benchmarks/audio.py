"""Spoken digits (FSDD, 8 kHz): recognised, drawn, and measured in bits a sample.

python benchmarks/audio.py [--budget 15m] [--drawn 20] [--only classify draw samples cost]

The official split by take: 0 to 4 are the test part. `classify`: accuracy with --labels last,
beside the nearest neighbour on log-mel features. `draw`: digits drawn with --label, judged by that
classifier and by the nearest neighbour; real test clips that only went through the codebook and
back are the ceiling. `samples`: bits a sample of mu-law codes beside FLAC and xz. `cost`: what
contexts of a second cost, one id a sample or three ids every 10 ms.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from _common import DATA, heading, table, tfm, tfm_json, workspace

FSDD = DATA / "audio/fsdd"
CLIPS = (
    *("--data", f"{FSDD}/*_[5-9].wav", "--data", f"{FSDD}/*_1[0-4].wav"),
    *("--valid", f"{FSDD}/*_[0-4].wav", "--label-from", "^([0-9])_"),
)
SPECTRA = ("--tokenizer", "spectra")
FRAMES = 16  # of log-mel features a clip
Array = Any


def log_mel(samples: Array, rate: int = 8000, bands: int = 26) -> Array:
    """(FRAMES * bands,) features: log-mel spectra of windows of 32 ms every 10 ms, interpolated to
    FRAMES in time, less their mean over time."""
    samples = np.pad(samples, (0, max(0, 256 - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, 256)[::80]
    power = np.abs(np.fft.rfft(frames * np.hanning(256))) ** 2
    hertz = np.linspace(0, rate / 2, power.shape[1])
    mel = 2595 * np.log10(1 + hertz / 700)
    low, high = (2595 * np.log10(1 + x / 700) for x in (50, rate / 2))
    centres = np.linspace(low, high, bands + 2)
    width = centres[1] - centres[0]
    weights = np.maximum(0, 1 - np.abs(mel[:, None] - centres[1:-1]) / width)
    logs = np.log(power @ weights + 1e-5)
    at = np.linspace(0, len(logs) - 1, FRAMES)
    out = np.stack([np.interp(at, np.arange(len(logs)), band) for band in logs.T], axis=1)
    return (out - out.mean(axis=0)).ravel()


class Nearest:
    """The digit of the nearest training clip, by the Euclidean distance of log-mel features."""

    def __init__(self) -> None:
        train = [p for p in sorted(FSDD.glob("*.wav")) if take(p) >= 5]
        self.features = np.stack([log_mel(soundfile.read(p)[0]) for p in train])
        self.digits = [p.name[0] for p in train]

    def accuracy(self, clips: list[Path]) -> float:
        right = 0
        for path in clips:
            distance = ((self.features - log_mel(soundfile.read(path)[0])) ** 2).sum(axis=1)
            right += self.digits[int(distance.argmin())] == path.name[0]
        return right / len(clips)


def take(path: Path) -> int:
    found = re.search(r"_(\d+)\.wav$", path.name)
    assert found
    return int(found[1])


def judged(run: str, folder: Path, clips: Path) -> float:
    """The accuracy of a classifier on a folder of clips whose names begin with their digit."""
    scores = tfm_json("eval", run, "--data", clips, "-q", folder=folder)
    return float(scores["accuracy"])


def decoded(run: str, folder: Path) -> Path:
    """The test clips, turned into spectra and back."""
    out = folder / "decoded"
    out.mkdir(exist_ok=True)
    from tfm.core.runs.run import Run
    from tfm.tokenizers._clips import Clip

    tokenizer = Run(folder / run).tokenizer()
    for path in sorted(FSDD.glob("*_[0-4].wav")):
        samples = soundfile.read(path, dtype="float32")[0]
        label = path.name[0] if tokenizer.label_position == "first" else None
        sequence = tokenizer.encode(Clip(samples, 8000, label))
        back = tokenizer.decode(sequence.ids, sequence.side)
        soundfile.write(out / path.name, back.samples, 8000)
    return out


def drawn(run: str, folder: Path, count: int, name: str, *flags: object) -> Path:
    out = folder / name
    out.mkdir(exist_ok=True)
    for digit in range(10):
        tfm(
            *("sample", run, "--label", digit, "-n", count, "--seed", digit, *flags, "-q"),
            *("--out", out / (f"{digit}_" + "{n}.wav"), "--force"),
            folder=folder,
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="15m")
    parser.add_argument("--drawn", type=int, default=20, help="clips of each digit")
    parser.add_argument("--folder", type=Path, help="keep the runs and clips here")
    parser.add_argument("--only", nargs="+", default=["classify", "draw", "samples", "cost"])
    args = parser.parse_args()
    heading()
    folder = args.folder or workspace()
    folder.mkdir(parents=True, exist_ok=True)
    nearest = Nearest()
    test = sorted(FSDD.glob("*_[0-4].wav"))

    def trained(run: str, *flags: object) -> dict[str, Any]:
        if (folder / run / "config.json").exists():
            return tfm_json("eval", run, "-q", folder=folder)
        found = ("train", *CLIPS, *flags, "--budget", args.budget, "--run", run, "-q")
        scores: dict[str, Any] = tfm_json(*found, folder=folder)
        print(run, {k: v for k, v in scores.items() if not isinstance(v, dict)}, flush=True)
        return scores

    if "classify" in args.only or "draw" in args.only:
        scores = trained("classes", *SPECTRA, "--labels", "last")
        rows: list[list[object]] = [
            ["what is heard", "clips", "the classifier", "nearest, log-mel"]
        ]
        rows.append(["test clips", len(test), scores["accuracy"], nearest.accuracy(test)])
    if "draw" in args.only:
        trained("digits", *SPECTRA, "--labels", "first")
        trained("waves", "--labels", "first")
        groups = [
            ("test clips, as spectra and back", decoded("digits", folder)),
            ("drawn: spectra", drawn("digits", folder, args.drawn, "drawn")),
            (
                "drawn: spectra, --temperature 0.8",
                drawn("digits", folder, args.drawn, "cooler", "--temperature", 0.8),
            ),
            ("drawn: mu-law samples", drawn("waves", folder, args.drawn, "drawn-waves")),
        ]
        for name, clips in groups:
            paths = sorted(clips.glob("*.wav"))
            accuracy = judged("classes", folder, clips)
            rows.append([name, len(paths), accuracy, nearest.accuracy(paths)])
    if "classify" in args.only or "draw" in args.only:
        table([[f"{x:.3f}" if isinstance(x, float) else x for x in row] for row in rows])
    if "samples" in args.only:
        print()
        rows = [["tokenizer", "bits a sample", "flac", "xz", "histogram"]]
        scores = trained("waves", "--labels", "first")
        values = [scores["bits_per_sample"]]
        values += [scores["floor"][name] for name in ("flac", "xz", "histogram")]
        table([*rows, ["mulaw", *(f"{value:.3f}" for value in values)]])
    if "cost" in args.only:
        print()
        cost(folder)


def cost(folder: Path) -> None:
    """What training and drawing cost: of models of size tiny that trained a few steps, and of the
    runs of `draw`, start-up included."""
    rows: list[list[object]] = [
        [
            "tokenizer",
            "context",
            "ids a second of sound",
            "trained, ids/s",
            "s of sound trained a s",
        ]
    ]
    for spec, context in (("mulaw", 255), ("mulaw", 1023), ("mulaw", 8001), ("spectra", 320)):
        run = f"cost-{spec}-{context}"
        steps = 4 if context > 4000 else 12
        flags = ("--labels", "none", "--tokenizer", spec, "--context", context, "--size", "tiny")
        tfm("train", *CLIPS[:-2], *flags, "--steps", steps, "--run", run, "-q", folder=folder)
        log = [json.loads(line) for line in (folder / run / "log.jsonl").read_text().splitlines()]
        own = [entry for entry in log if "seconds" in entry and "tokens" in entry][1:]
        speed = statistics.median(entry["tokens"] / entry["seconds"] for entry in own)
        each = 8000 if spec == "mulaw" else 300
        rows.append([spec, context, f"{each:,}", f"{speed:,.0f}", f"{speed / each:.2f}"])
    table(rows)
    print()
    rows = [["run", "clips drawn at once", "s of sound", "s", "s of sound drawn a s"]]
    for run in ("waves", "digits"):
        for count in (1, 20):
            out = folder / "timed.wav"
            started = time.perf_counter()
            tfm("sample", run, "--label", 3, "-n", count, "--out", out, "--force", folder=folder)
            seconds = time.perf_counter() - started
            sound = soundfile.info(out).duration - 0.25 * (count - 1)  # gaps between clips
            values = (f"{sound:.1f}", f"{seconds:.1f}", f"{sound / seconds:.2f}")
            rows.append([run, count, *values])
    table(rows)


if __name__ == "__main__":
    main()
