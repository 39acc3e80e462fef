"""The audio task: codes and spectra, sound files of every kind, splits, windows, samples."""

from __future__ import annotations

import gzip
import io
import json
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile
from conftest import Tfm, Trained

from tfm.core.data.source import Source
from tfm.core.errors import ConfigError, DataError, UsageError
from tfm.core.laws import check_tokenizer
from tfm.tasks._audio.clips import Clips
from tfm.tasks._audio.options import AudioOptions
from tfm.tasks._audio.reading import read_clips
from tfm.tasks._audio.rows import ClipRows
from tfm.tasks.audio import AudioTask
from tfm.tokenizers._clips import Clip, ClipTokenizer
from tfm.tokenizers.mulaw import MulawTokenizer, compress, expand
from tfm.tokenizers.spectra import SpectraTokenizer, log_spectra, window_of

RATE = 8000
LABELS = ("high", "low")


def tone(hertz: float, seconds: float = 0.25, rate: int = RATE, level: float = 0.5) -> Any:
    times = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def noise(size: int, seed: int = 0, level: float = 0.1) -> Any:
    return (level * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def peak_hertz(samples: Any, rate: int) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


def write_clips(folder: Path, count: int = 20, seconds: float = 0.06) -> Path:
    """Tones with some noise, in a folder for each of two labels."""
    for label, hertz in (("low", 300), ("high", 1200)):
        (folder / label).mkdir(parents=True)
        for n in range(count // 2):
            sound = tone(hertz + 10 * n, seconds) + noise(round(seconds * RATE), n, 0.005)
            soundfile.write(folder / label / f"{n}.wav", sound, RATE)
    return folder


def read(*paths: Path, **options: Any) -> Clips:
    return read_clips(Source(tuple(map(str, paths))), AudioOptions(**options))


def read_wav(data: bytes) -> tuple[Any, int]:
    """(samples, rate) by the standard library, not by what wrote it."""
    with wave.open(io.BytesIO(data)) as file:
        assert file.getnchannels() == 1 and file.getsampwidth() == 2
        frames = file.readframes(file.getnframes())
        return np.frombuffer(frames, "<i2") / 32768, file.getframerate()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "tones")


# -- codes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", [4, 64, 256])
def test_mulaw_codes_are_those_of_the_formula(codes: int) -> None:
    mu = codes - 1
    xs = np.linspace(-1, 1, 999)
    companded = np.array([np.sign(x) * np.log(1 + mu * abs(x)) / np.log(1 + mu) for x in xs])
    expected = [round((y + 1) / 2 * mu) for y in companded.tolist()]
    np.testing.assert_array_equal(compress(xs.astype(np.float32), codes), expected)
    everything = np.arange(codes)
    np.testing.assert_array_equal(compress(expand(everything, codes), codes), everything)
    # half a code away at most, on the companded scale
    back = expand(compress(xs.astype(np.float32), codes), codes)
    again = np.sign(back) * np.log1p(mu * np.abs(back)) / np.log1p(mu)
    assert np.abs(again - companded).max() <= 1 / mu + 1e-6


@pytest.mark.parametrize("position", ["none", "first", "last"])
@pytest.mark.parametrize("codes", [256, 16])
def test_mulaw_keeps_the_laws_of_tokenizers(codes: int, position: str) -> None:
    labels = () if position == "none" else LABELS
    tokenizer = MulawTokenizer(RATE, codes, 100, labels, position)
    sounds = [expand(np.random.default_rng(n).integers(0, codes, n), codes) for n in (0, 1, 2, 50)]
    label = None if position == "none" else "low"
    check_tokenizer(tokenizer, [Clip(sound, RATE, label) for sound in sounds])
    assert tokenizer.length(50) == len(tokenizer.encode(Clip(sounds[-1], RATE, label)))


@pytest.mark.parametrize("position", ["none", "first", "last"])
def test_spectra_keep_the_laws_of_tokenizers(position: str) -> None:
    labels = () if position == "none" else LABELS
    sounds = [tone(400), noise(1000), np.zeros(30, np.float32), noise(1)]
    spectra = np.concatenate([log_spectra(sound, 80) for sound in sounds])
    tokenizer = SpectraTokenizer.fit(
        spectra, 8, 2, rate=RATE, hop=80, labels=labels, label_position=position
    )
    label = None if position == "none" else "low"
    check_tokenizer(tokenizer, [Clip(sound, RATE, label) for sound in sounds])


def test_spectra_are_those_of_scipy() -> None:
    sound, hop = noise(1600), 80
    window = window_of(hop)
    theirs = scipy.signal.ShortTimeFFT(window, hop, RATE).stft(sound, p0=0)
    # theirs is centred on multiples of the hop, ours half a hop later
    moved = np.concatenate((np.zeros(len(window) // 2), sound))[len(window) // 2 + hop // 2 :]
    theirs = scipy.signal.ShortTimeFFT(window, hop, RATE).stft(moved, p0=0, p1=10)
    ours = np.exp(log_spectra(sound, hop)[2:10]) - 3e-4
    np.testing.assert_allclose(ours, np.abs(theirs.T[2:10]) * 4 / len(window), rtol=1e-4, atol=1e-5)


def test_decoded_spectra_sound_alike() -> None:
    """With a code for every step, only phases are lost: the spectra are nearly the same again."""
    sound = tone(500) + tone(1230, level=0.2) + noise(2000, level=0.01)
    spectra = log_spectra(sound, 80)
    tokenizer = SpectraTokenizer.fit(spectra, 4096, 1, rate=RATE, hop=80)
    sequence = tokenizer.encode(Clip(sound, RATE))
    assert len(sequence) == 3 + 25, "begin, start and end beside 25 steps of 10 ms"
    decoded = tokenizer.decode(sequence.ids, sequence.side)
    assert len(decoded.samples) == len(sound)
    error = log_spectra(decoded.samples, 80)[3:-3] - spectra[3:-3]
    assert np.sqrt((error**2).mean()) * 8.686 < 3, "decibels"
    assert abs(peak_hertz(decoded.samples, RATE) - 500) < 8
    other = tone(900)
    far = log_spectra(other, 80)[3:-3] - spectra[3:-3]
    assert np.sqrt((far**2).mean()) * 8.686 > 10, "the measure tells sounds apart"


def test_what_the_end_token_or_an_incomplete_step_leaves() -> None:
    tokenizer = MulawTokenizer(RATE, 16, 100, LABELS, "first")
    ids = np.array([tokenizer.begin, tokenizer.label_id("low"), tokenizer.start, 5, 6, 0, 7])
    clip = tokenizer.decode(ids, tokenizer.side(None))
    assert clip.label == "low"
    np.testing.assert_array_equal(clip.samples, expand(np.array([4, 5]), 16))
    spectra = SpectraTokenizer.fit(log_spectra(noise(800), 80), 4, 2, rate=RATE, hop=80)
    first = spectra.encode(Clip(noise(800), RATE)).ids
    assert len(spectra.decode(first[:7], spectra.side(None)).samples) == 160, "2 of 2.5 steps"


# -- sound files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", "PCM_U8"), ("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "PCM_32"), ("wav", "FLOAT"),
     ("wav", "DOUBLE"), ("flac", "PCM_16"), ("flac", "PCM_24"), ("ogg", "VORBIS"),
     ("mp3", "MPEG_LAYER_III"), ("aiff", "PCM_16")],
)  # fmt: skip
def test_formats_of_files_read_as_the_same_sound(tmp_path: Path, suffix: str, subtype: str) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(440, 1.0, 16000), 16000, subtype=subtype)
    clips = read(path)
    assert clips.rate == 8000 and abs(clips.size - 8000) < 800  # mp3 adds a frame
    samples = clips.samples(0)
    assert abs(peak_hertz(samples, 8000) - 440) < 2
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.03)
    assert "1 resampled from 16,000 Hz" in clips.description.lines[0]


def test_channels_are_mixed_and_counted(tmp_path: Path) -> None:
    sound = np.stack([tone(440) * (n == 2) * 1.5 for n in range(6)], axis=1)
    soundfile.write(tmp_path / "six.wav", sound, RATE, subtype="FLOAT")
    clips = read(tmp_path / "six.wav")
    assert clips.samples(0).max() == pytest.approx(0.75 / 6, abs=1e-3)
    assert "1 of 6 channels mixed to one" in clips.description.lines[0]


def test_rates_are_counted_and_the_most_common_one_is_taken(tmp_path: Path) -> None:
    for n, rate in enumerate((4000, 4000, 6000, 44100)):
        soundfile.write(tmp_path / f"{n}.wav", tone(300, 0.5, rate), rate)
    clips = read(tmp_path)
    assert clips.rate == 4000
    assert [len(clips.samples(n)) for n in range(4)] == [2000] * 4
    assert all(abs(peak_hertz(clips.samples(n), 4000) - 300) < 3 for n in range(4))
    (line,) = clips.description.lines
    assert "1 resampled from 6,000 Hz" in line and "1 resampled from 44,100 Hz" in line
    assert clips.description.record["rates"] == {"4000": 2, "6000": 1, "44100": 1}
    assert read(tmp_path, rate=12000).rate == 12000


def test_silence_and_clipping_are_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(900), RATE)
    soundfile.write(tmp_path / "b.wav", np.clip(tone(440, level=3.0), -1, 1), RATE)
    soundfile.write(tmp_path / "c.wav", tone(440, level=1.0), RATE)
    (line,) = read(tmp_path).description.lines
    assert "1 silent: " in line and "a.wav" in line.partition("1 silent: ")[2]
    assert "1 clipped at full scale: " in line and "b.wav" in line.partition("1 clipped")[2]


def test_floats_beyond_full_scale_are_scaled_down(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", tone(440, level=8000.0), RATE, subtype="FLOAT")
    clips = read(tmp_path / "loud.wav")
    assert np.abs(clips.samples(0)).max() == pytest.approx(1, abs=1e-3)
    assert "1 beyond full scale scaled down" in clips.description.lines[0]


def test_one_sample_is_a_clip(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.wav", np.array([0.5]), RATE)
    assert read(tmp_path / "one.wav").size == 1
    assert read(tmp_path / "one.wav", rate=3000).size == 1


def bad_files(folder: Path) -> dict[str, str]:
    """Files that cannot be read: name -> what the message must say."""
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / "whole.wav", tone(440), RATE)
    data = (folder / "whole.wav").read_bytes()
    (folder / "short.wav").write_bytes(data[:1000])
    (folder / "text.wav").write_text("not sound, but text in a file of this name\n" * 9)
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "none.wav", np.zeros(0), RATE)
    soundfile.write(folder / "nan.wav", np.array([0.1, np.nan]), RATE, subtype="FLOAT")
    soundfile.write(folder / "whole.flac", noise(9000), RATE)
    flac = (folder / "whole.flac").read_bytes()
    (folder / "short.flac").write_bytes(flac[: len(flac) // 2])
    for name in ("whole.wav", "whole.flac"):
        (folder / name).unlink()
    return {
        "short.wav": "cut off, 3,044 bytes are missing",
        "text.wav": "not a sound file",
        "empty.wav": "not a sound file",
        "none.wav": "has no samples",
        "nan.wav": "not numbers",
        "short.flac": "",
    }


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name, message in bad_files(tmp_path / "bad").items():
        with pytest.raises(DataError, match=name) as error:
            read(tmp_path / "bad" / name)
        assert message in str(error.value), name
        assert "\n" not in str(error.value)


def test_skip_bad_leaves_them_out_and_says_so(tmp_path: Path) -> None:
    write_clips(tmp_path / "all")
    count = len(bad_files(tmp_path / "all" / "low"))
    clips = read(tmp_path / "all", skip_bad=True)
    assert len(clips) == 20
    assert f"{count} unreadable" in clips.description.lines[0]


def test_a_wav_of_unknown_length_from_a_pipe_is_whole(tmp_path: Path) -> None:
    """ffmpeg writes 0xFFFFFFFF where it cannot know the length."""
    soundfile.write(tmp_path / "a.wav", tone(440), RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    (tmp_path / "b.wav").write_bytes(data)
    np.testing.assert_array_equal(read(tmp_path / "b.wav").raw, read(tmp_path / "a.wav").raw)


def test_a_folder_without_sound_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an empty folder"):
        read(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing\n")
    with pytest.raises(DataError, match="contains no sound files"):
        read(tmp_path)


# -- labels and splits -----------------------------------------------------------------------------


def test_labels_are_subfolders_or_part_of_the_name(clips: Path, tmp_path: Path) -> None:
    found = read(clips)
    assert found.names() == ("high", "low") and found.label_position == "first"
    for number, name in enumerate(("7_a_0", "7_b_1", "12_a_0", "12_b_2")):
        soundfile.write(tmp_path / f"{name}.wav", noise(300, number), RATE)
    named = read(tmp_path, label_from=r"^(\d+)_", labels="last")
    assert named.names() == ("7", "12"), "numbers in order"
    assert read(tmp_path).label_position == "none"
    some = read(tmp_path, label_from=r"^(7)_", labels="first")
    assert len(some) == 2 and "2 without a label" in some.description.lines[0]
    with pytest.raises(DataError, match="no clip of .* has a label"):
        read(tmp_path, label_from="(x)", labels="first")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 50}, "--rate"),
        ({"hop": 0.0}, "--hop"),
        ({"hop": float("nan")}, "--hop"),
        ({"stages": 0}, "--stages"),
        ({"label_weight": -1.0}, "--label-weight"),
        ({"label_from": "("}, "--label-from"),
        ({"label_from": "abc"}, "parentheses"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AudioOptions(**options)


def test_parts_of_the_data_are_kept(tmp_path: Path) -> None:
    write_clips(tmp_path / "set" / "train", 6)
    write_clips(tmp_path / "set" / "test", 4)
    parts = read(tmp_path / "set").parts()
    assert {name: len(part) for name, part in parts.items()} == {"train": 6, "test": 4}
    assert parts["test"].names() == ("high", "low")


def test_equal_clips_stay_on_one_side_of_the_split(tmp_path: Path) -> None:
    for n in range(30):
        soundfile.write(tmp_path / f"{n}.wav", noise(200, n % 15), RATE)
    train, held = read(tmp_path).split(0.3)
    sides = [{clip.samples.tobytes() for clip in part.clips()} for part in (train, held)]
    assert not sides[0] & sides[1]
    assert len(train) + len(held) == 30 and len(held) % 2 == 0 and len(held)


def test_one_recording_is_split_in_time(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", noise(5000), RATE)
    whole = read(tmp_path / "long.wav")
    train, held = whole.split(0.2)
    assert (train.size, held.size) == (4000, 1000)
    np.testing.assert_array_equal(
        np.concatenate((train.samples(0), held.samples(0))), whole.samples(0)
    )
    soundfile.write(tmp_path / "long.wav", noise(300), RATE)
    with pytest.raises(DataError, match="too short"):
        read(tmp_path / "long.wav").split(0.1)


# -- training rows ---------------------------------------------------------------------------------


def rows_of(clips: Clips, tokenizer: ClipTokenizer, context: int, varied: bool = False) -> ClipRows:
    return ClipRows(clips, tokenizer, context, 7.0, 0, varied)


def test_every_window_restates_the_label_and_only_the_first_starts(clips: Path) -> None:
    found = read(clips)
    tokenizer = MulawTokenizer(RATE, 256, 480, found.names(), "first")
    rows = rows_of(found, tokenizer, 101)
    assert len(rows) == 20 * 4, "480 samples, 98 or 99 in a window of 102 ids"
    label_of = {clip.tobytes(): label for clip, label in
                ((tokenizer.ids_of(c.samples), c.label) for c in found.clips())}  # fmt: skip
    starts = 0
    for epoch in range(3):
        batch = rows.batch(np.arange(len(rows)) + epoch * len(rows))
        assert (batch.ids[:, 0] == tokenizer.begin).all()
        for row, weight in zip(batch.ids, batch.weight, strict=True):
            label = tokenizer.labels[row[1] - tokenizer.label_ids[0]]
            started = row[2] == tokenizer.start
            starts += started
            sound = tokenizer.sound(row[2 + started :])
            whole = next(
                np.frombuffer(ids, np.int64)
                for ids, own in label_of.items()
                if own == label and sound.tobytes() in ids
            )
            assert not started or (whole[: len(sound)] == sound).all()
            assert weight[0] == 0 and weight[1] == 7
            assert weight[2] == (0 if started else 1)
            assert (weight[3 : 2 + len(sound)] == 1).all()
    assert starts, "a quarter of the clips are cut from their start"
    ends = (rows.batch(np.arange(3 * len(rows))).ids == 0).any(1).sum()
    assert ends, "and a quarter to their end"


def test_short_clips_share_a_row_and_all_ids_are_legal(clips: Path) -> None:
    found = read(clips, labels="last")
    spectra = np.concatenate([log_spectra(c.samples, 80) for c in found.clips()])
    tokenizer = SpectraTokenizer.fit(
        spectra, 16, 2, rate=RATE, hop=80, labels=found.names(), label_position="last"
    )
    rows = rows_of(found, tokenizer, 60, varied=True)
    assert len(rows) < 20
    batch = rows.batch(np.arange(len(rows)))
    other = rows.batch(np.arange(len(rows)) + len(rows))
    assert not np.array_equal(batch.ids, other.ids), "varied in every epoch"
    again = rows.batch(np.arange(len(rows)))
    np.testing.assert_array_equal(batch.ids, again.ids)
    assert batch.segments is not None and isinstance(batch.support, np.ndarray)
    real = batch.segments >= 0
    assert (batch.support[..., 0] <= batch.ids)[real].all()
    assert (batch.ids < batch.support[..., 1])[real].all()
    low, high = tokenizer.label_ids
    assert ((batch.ids >= low) & (batch.ids < high))[real].sum() == 20, "a label for each clip"


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Labels first, one id a sample; a window is a fifth of a clip."""
    folder = tmp_path_factory.mktemp("run")
    result = Tfm(folder)(
        *("train", "--data", clips, "--size", "nano", "--context", 100, "--steps", 12),
        *("--run", "run", "--json"),
    )
    assert "looks like --task audio" in result.err
    return Trained(folder / "run", result.json())


def test_eval_counts_every_sample_once_beside_flac_and_xz(tfm: Tfm, run: Trained) -> None:
    scores = tfm("eval", run.path, "--json").json()
    assert scores["units"] == 480 * scores["clips"]
    assert scores["tokens"] == 481 * scores["clips"], "each sample and the end"
    assert scores["bits_per_sample"] == pytest.approx(scores["nll"] / np.log(2) / scores["units"])
    assert set(scores["floor"]) == {"flac", "xz", "histogram"}
    sliding = tfm("eval", run.path, "--stride", 20, "--json").json()
    assert sliding["tokens"] == scores["tokens"]


def test_flac_is_that_of_the_codes(clips: Path) -> None:
    found = read(clips)
    train, held = found.split(0.3)
    task = AudioTask(AudioOptions())
    tokenizer = task.fit_tokenizer("mulaw:64", train)
    codes = np.concatenate([compress(clip.samples, 64) for clip in held.clips()])
    out = io.BytesIO()
    soundfile.write(out, (codes.astype(np.int16) - 32) * 256, RATE, format="FLAC", subtype="PCM_S8")
    floor, _ = task.baselines(train, held, (), tokenizer, False)
    assert floor["flac"] == pytest.approx(8 * len(out.getvalue()) / len(codes))
    back, _ = soundfile.read(io.BytesIO(out.getvalue()), dtype="int16")
    np.testing.assert_array_equal(back // 256 + 32, codes, "and it is lossless")


def test_sample_writes_wav_of_a_label(tfm: Tfm, run: Trained) -> None:
    data = tfm("sample", run.path, "--label", "low", "--seconds", 0.02).out
    samples, rate = read_wav(data)
    assert rate == RATE and len(samples) <= 160
    (tfm.folder / "many").mkdir()
    tfm("sample", run.path, "-n", 2, "--out", "many/{n}.wav")
    for number in range(2):
        assert read_wav((tfm.folder / "many" / f"{number}.wav").read_bytes())[1] == RATE
    record = tfm("sample", run.path, "--json").lines()[0]
    assert record["label"] in LABELS and "seconds" in record
    assert "not one of those trained on: high, low" in tfm.error(
        "sample", run.path, "--label", "middle", "--out", "a.wav"
    )
    assert "--seconds" in tfm.error("sample", run.path, "--seconds", 0, "--out", "a.wav")


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_sample_writes_other_sound_files(tfm: Tfm, run: Trained, suffix: str) -> None:
    tfm("sample", run.path, "--greedy", "--seconds", 0.1, "--out", f"a.{suffix}")
    samples, rate = soundfile.read(tfm.folder / f"a.{suffix}")
    assert rate == RATE and len(samples)


def test_sample_draws_a_picture(tfm: Tfm, run: Trained) -> None:
    from PIL import Image

    tfm("sample", run.path, "-n", 3, "--out", "a.png")
    with Image.open(tfm.folder / "a.png") as picture:
        assert picture.size[0] > 500


def test_a_clip_is_continued(tfm: Tfm, run: Trained, clips: Path) -> None:
    """A prompt as long as three windows: the label stays before each."""
    prompt = clips / "low" / "0.wav"
    arguments = ("sample", run.path, "--label", "low", "--seconds", 0.02, "--out", "out.wav")
    tfm(*arguments, "-p", prompt)
    samples, _ = read_wav((tfm.folder / "out.wav").read_bytes())
    given, _ = soundfile.read(prompt, dtype="float32")
    assert 480 <= len(samples) <= 640
    np.testing.assert_allclose(samples[:480], expand(compress(given, 256), 256), atol=1e-4)
    tfm(*arguments, "--force", "-p", "-", stdin=prompt.read_bytes())
    piped, _ = read_wav((tfm.folder / "out.wav").read_bytes())
    np.testing.assert_array_equal(piped[:480], samples[:480])
    assert "--label: needed to continue" in tfm.error(
        "sample", run.path, "-p", prompt, "--out", "b.wav"
    )
    assert "no such file" in tfm.error(*arguments[:4], "-p", "nothing.wav", "--out", "b.wav")


def test_ids_and_back_again(tfm: Tfm, run: Trained, clips: Path) -> None:
    single = clips / "low" / "1.wav"
    assert "has no label" in tfm.error("tokenize", run.path, single)
    ids = tfm("tokenize", run.path, clips / "low" / "..", "--json").out
    samples, rate = read_wav(tfm("detokenize", run.path, stdin=ids).out)
    assert rate == RATE and len(samples) == 20 * 480 + 19 * 2000, "with gaps of a quarter second"
    given, _ = soundfile.read(clips / "high" / "0.wav", dtype="float32")
    np.testing.assert_allclose(samples[:480], expand(compress(given, 256), 256), atol=1e-4)


@pytest.mark.parametrize(("context", "expected"), [((), 255), (("--context", 90), 90)])
def test_the_context_is_a_flag_a_clip_or_a_limit(
    tfm: Tfm, clips: Path, context: tuple[object, ...], expected: int
) -> None:
    def context_of(*flags: object) -> int:
        run = f"run{len(list(tfm.folder.iterdir()))}"
        tfm("train", "--data", clips, "--size", "nano", "--steps", 1, *flags, "--run", run)
        found: int = json.loads((tfm.folder / run / "config.json").read_text())["model"]["context"]
        return found

    assert context_of(*context) == expected
    if not context:
        assert context_of("--tokenizer", "spectra:4", "--stages", 1) == 3 + 7
        assert context_of("--rate", 2000) == 3 + 120


def test_a_compressed_file_and_standard_input_are_clips(tfm: Tfm) -> None:
    soundfile.write(tfm.folder / "a.wav", noise(2000), RATE)
    data = (tfm.folder / "a.wav").read_bytes()
    (tfm.folder / "a.wav.gz").write_bytes(gzip.compress(data))
    arguments = ("data", "--task", "audio", "--json", "-n", 0)
    zipped = tfm(*arguments, "a.wav.gz").json()["splits"]
    assert zipped == tfm(*arguments, "-", stdin=data).json()["splits"]
    assert zipped["train"]["units"] == 1800, "the last tenth of 2,000 is held out"


def test_last_labels_are_predicted(tfm: Tfm, clips: Path) -> None:
    """Two tones of another pitch are soon told apart."""
    result = tfm(
        *("train", "--data", clips, "--tokenizer", "spectra:16", "--labels", "last"),
        *("--size", "nano", "--set", "train.batch=16", "--steps", 60, "--run", "run", "--json"),
    )
    scores = result.json()
    assert scores["accuracy"] == 1.0
    assert scores["bits_per_sample"] is None, "spectra are not the samples"
    assert 0 < scores["spectral_distortion_db"] < 20
    assert len(tfm("score", "run", clips).lines()) == 20
    tfm("score", "run", clips, "--predictions", "out.csv")
    rows = (tfm.folder / "out.csv").read_text().splitlines()
    assert len(rows) == 21 and all(row.count("high") in (0, 3) for row in rows[1:])
    assert "labels first" in tfm.error("sample", "run", "--label", "low", "--out", "a.wav")
    other = tfm.folder / "other.wav"
    soundfile.write(other, tone(1200, 0.06, 16000), 16000)
    assert "resampled from 16,000 Hz" in tfm("eval", "run", "--data", other).err


def test_flags_that_do_not_fit_are_refused(tfm: Tfm, clips: Path) -> None:
    base = ("train", "--task", "audio", "--data", clips, "--steps", 1)
    assert "--hop: is for --tokenizer spectra" in tfm.error(*base, "--hop", 5)
    assert "mulaw:N" in tfm.error(*base, "--tokenizer", "mulaw:300")
    assert "spectra:N" in tfm.error(*base, "--tokenizer", "spectra:1")
    assert "--tokenizer bpe" in tfm.error(*base, "--tokenizer", "bpe")
    assert "--label-weight" in tfm.error(*base, "--labels", "none", "--label-weight", 2)
    assert "need --context" in tfm.error(*base, "--labels", "last", "--context", 50)


def test_the_default_data_needs_no_file(tfm: Tfm) -> None:
    result = tfm(
        *("train", "--task", "audio", "--size", "nano", "--steps", 1, "--context", 64),
        *("--run", "run", "--json"),
    )
    assert "generated tones and chords" in result.err
    base = ("train", "--task", "audio", "--steps", 1)
    assert "--rate 8000: the generated clips have 4000" in tfm.error(*base, "--rate", 8000)
    assert "--label-from: is for files" in tfm.error(*base, "--label-from", "(a)")
    assert 40 < result.json()["clips"] < 90


def test_without_soundfile_a_file_is_refused_and_generated_sound_works(
    tfm: Tfm, clips: Path
) -> None:
    hidden = tfm.folder / "hidden"
    hidden.mkdir()
    (hidden / "soundfile.py").write_text("raise ImportError('hidden')\n")
    env = {"PYTHONPATH": str(hidden)}
    small = ("--size", "nano", "--steps", 1, "--context", 64)
    refused = tfm("train", "--data", clips, *small, code=2, env=env)
    assert "pip install 'tfm-toolkit[audio]'" in refused.err
    scores = tfm("train", "--task", "audio", *small, "--run", "run", "--json", env=env).json()
    assert set(scores["floor"]) == {"histogram", "xz"}
    samples, _ = read_wav(tfm("sample", "run", "-p", "", "--seconds", 0.01, env=env).out)
    assert len(samples) <= 80
    assert "tfm-toolkit[audio]" in tfm("sample", "run", "--out", "a.mp3", code=2, env=env).err


FSDD = Path(__file__).resolve().parents[2] / "shared/data/audio/fsdd"


@pytest.mark.skipif(not FSDD.exists(), reason="no spoken digits (FSDD) in ../shared/data/audio")
def test_spoken_digits_are_read_as_published() -> None:
    """The counts are those of the data's own page; FLAC is the bound that a model must beat."""
    train, test = (
        read_clips(
            Source(tuple(f"{FSDD}/*_{take}.wav" for take in takes)),
            AudioOptions(label_from="^([0-9])_", labels="last"),
        )
        for takes in (range(5, 15), range(5))
    )
    assert (len(train), len(test), train.rate) == (300, 150, 8000)
    assert train.names() == tuple("0123456789")
    assert abs((train.size + test.size) / 8000 - 200) < 1, "seconds"
    task = AudioTask(AudioOptions())
    floor = task.floor(train, test)
    assert 5 < floor["flac"] < floor["xz"] < floor["histogram"] < 8
    tokenizer = task.fit_tokenizer("spectra:64", train)
    assert tokenizer.count(8000) == 300
    units = task.units(task.sequences(test, tokenizer))
    distortion = task.metrics(1.0, 1, units, False)["spectral_distortion_db"]
    assert distortion is not None and 2 < distortion < 5


def test_a_label_is_refused_where_a_run_has_none() -> None:
    with pytest.raises(UsageError, match="--label: this run has no labels"):
        AudioTask(AudioOptions()).prompt(None, MulawTokenizer(RATE), _sampling("low"))


def _sampling(label: str) -> Any:
    from tfm.tasks._audio.options import AudioSampling

    return AudioSampling(label=label)
