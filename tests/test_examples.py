"""The examples in examples/, installed by their own pyproject.toml, go through every command."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tfm, Trained
from helpers import prose
from install import install

from tfm.core.entry_points import entry_points
from tfm.core.runs.run import Run

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/pyproject.toml"))
JSB = ROOT.parent / "shared" / "data" / "symbolic" / "Jsb16thSeparated.json"
REST = -1
Chorale = list[list[int]]


def random_chorale(draw: np.random.Generator, steps: int) -> Chorale:
    """Four voices that move by a few semitones every few steps, and rest now and then."""
    pitches = np.array([67, 62, 57, 48]) + draw.integers(-2, 3, (steps, 4)).cumsum(0) // 4 * 2
    pitches = pitches[np.arange(steps) // 4 * 4].clip(30, 90)
    return np.where(
        draw.random((steps // 4 + 1, 4)).repeat(4, 0)[:steps] < 0.1, -1, pitches
    ).tolist()


def read_midi(data: bytes) -> Chorale:
    """The pitches of four channels in each tick, by a reader of its own. Every note must end."""
    chunk, size, form, tracks, _ = struct.unpack_from(">4sIHHH", data)
    assert (chunk, size, form, tracks) == (b"MThd", 6, 0, 1)
    chunk, size = struct.unpack_from(">4sI", data, 14)
    assert chunk == b"MTrk" and size == len(data) - 22
    sounding, steps, at = [REST] * 4, list[list[int]](), 22
    while True:
        wait = 0
        while data[at] & 128:
            wait, at = (wait | data[at] & 127) << 7, at + 1
        wait, at = wait | data[at], at + 1
        steps += [list(sounding) for _ in range(wait)]
        status, first, second = data[at : at + 3]
        at += 3
        if status == 0xFF:
            assert (first, second, at) == (0x2F, 0, len(data)) and sounding == [REST] * 4
            return steps
        kind, channel = status & 0xF0, status & 0x0F
        assert kind in (0x80, 0x90) and (sounding[channel] == REST) == (kind == 0x90)
        assert kind == 0x90 or sounding[channel] == first
        sounding[channel] = first if kind == 0x90 else REST


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH in which every example is installed."""
    folder = tmp_path_factory.mktemp("site")
    for package in EXAMPLES:
        install(package, folder)
    return folder


@pytest.fixture
def tfm(tmp_path: Path, site: Path) -> Tfm:
    return Tfm(tmp_path, {"PYTHONPATH": str(site)})


@pytest.fixture(scope="module")
def chorales(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Trained:
    """A run on generated chorales, beside the file `chorales.json`, whose task is guessed."""
    folder, draw = tmp_path_factory.mktemp("chorales"), np.random.default_rng(0)
    counts = {"train": 20, "valid": 4, "test": 4}
    parts = {part: [random_chorale(draw, 140) for _ in range(n)] for part, n in counts.items()}
    (folder / "chorales.json").write_text(json.dumps(parts))
    train = ("train", "--data", "chorales.json", "--size", "nano", "--steps", 20, "--run", "run")
    small = ("--set", "train.batch=4", "--json")
    result = Tfm(folder, {"PYTHONPATH": str(site)})(*train, *small)
    assert "chorales.json looks like --task chorales" in result.err
    assert "training on 60 items; held out: 12 items; test 12 items" in result.err
    return Trained(folder / "run", result.json())


# -- chorales: a domain --------------------------------------------------------------------------


def test_a_chorale_is_scored_by_the_note(tfm: Tfm, chorales: Trained) -> None:
    scores = tfm("eval", chorales.path, "--json").json()
    assert (scores["unit"], scores["units"], scores["tokens"]) == ("note", 4 * 140 * 4, 4 * 140 * 4)
    assert scores["nll"] == chorales.scores["nll"] and scores["split"] == "test"
    assert scores["nats_per_note"] == pytest.approx(scores["nll"] / scores["units"])
    assert scores["bits_per_note"] == pytest.approx(scores["nats_per_note"] / math.log(2))
    items = tfm("score", chorales.path, "--heldout", "--json").lines()
    assert sum(item["nll"] for item in items) == pytest.approx(scores["nll"], rel=1e-6)


def test_its_floors_are_those_of_a_plain_count(chorales: Trained) -> None:
    data = json.loads((chorales.path.parent / "chorales.json").read_text())
    parts = {part: [w for c in data[part] for w in (c[:64], c[64:128], c[128:])] for part in data}
    after: dict[Any, Counter[int]] = {}
    for chorale in parts["train"]:
        for before, step in zip([[None] * 4, *chorale], chorale, strict=False):
            for voice, note in enumerate(step):
                after.setdefault((voice, before[voice]), Counter())[note] += 1
    of_voice = [sum((c for (v, _), c in after.items() if v == n), Counter()) for n in range(4)]
    bits = {"unigram": 0.0, "previous": 0.0}
    for chorale in parts["test"]:
        for before, step in zip([[None] * 4, *chorale], chorale, strict=False):
            for voice, note in enumerate(step):
                seen = of_voice[voice]
                share = (seen[note] + 1 / 129) / (seen.total() + 1)
                here = after.get((voice, before[voice]), Counter[int]())
                bits["unigram"] -= math.log2(share)
                bits["previous"] -= math.log2((here[note] + share) / (here.total() + 1))
    notes = sum(4 * len(chorale) for chorale in parts["test"])
    floor = chorales.scores["floor"]
    assert floor == pytest.approx({name: value / notes for name, value in bits.items()})
    assert floor["previous"] < floor["unigram"]


@pytest.mark.skipif(not JSB.exists(), reason="the JSB chorales are not beside the repository")
def test_its_floors_on_the_jsb_chorales(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole pieces have 2.64 and 0.983 nats a note; each window begins without a note before."""
    monkeypatch.syspath_prepend(site)
    from tfm_chorales import ChoraleTask

    from tfm.core.data.source import Source

    task = ChoraleTask(ChoraleTask.Options())
    parts = task.parts(task.items(Source((str(JSB),))))
    assert [sum(map(len, parts[part])) for part in parts] == [55228, 18408, 18900]
    floor = task.floor(parts["train"], parts["test"])
    assert floor["unigram"] * math.log(2) == pytest.approx(2.64, abs=0.005)
    assert floor["previous"] * math.log(2) == pytest.approx(0.983, abs=0.006)


def test_a_sample_is_a_midi_file(tfm: Tfm, chorales: Trained) -> None:
    record = tfm("sample", chorales.path, "--bars", 2, "--json").json()
    assert len(record["chorale"]) == 2 * 16 and len(record["tokens"]) == 2 * 16 * 4
    data = tfm("sample", chorales.path, "--bars", 2).out
    assert read_midi(data) == record["chorale"]
    tfm("sample", chorales.path, "--bars", 2, "-n", 2, "--out", "{n}.mid")
    tfm("sample", chorales.path, "--bars", 2, "-n", 2, "--out", "both.mid")
    each = [read_midi((tfm.folder / f"{n}.mid").read_bytes()) for n in range(2)]
    assert each[0] == record["chorale"] != each[1]
    assert read_midi((tfm.folder / "both.mid").read_bytes()) == each[0] + each[1]
    assert read_midi(tfm("sample", chorales.path, "--length", 2).out) == [], "no whole step"


def test_a_beginning_is_continued(tfm: Tfm, chorales: Trained) -> None:
    beginning = random_chorale(np.random.default_rng(1), 20)
    (tfm.folder / "beginning.json").write_text(json.dumps(beginning))
    sample = ("sample", chorales.path, "-p", "@beginning.json")
    record = tfm(*sample, "--bars", 2, "--json").json()
    assert record["chorale"][:20] == beginning and len(record["chorale"]) == 32
    assert "prompt is complete" in tfm.error(*sample, "--bars", 1)
    assert "--bars 5: must be 1 to 4" in tfm.error("sample", chorales.path, "--bars", 5)
    for wrong in ("[[1, 2, 3]]", "[[1, 2, 3, 128]]", "{}", "7", "bach"):
        assert "--prompt: " in tfm.error("sample", chorales.path, "-p", wrong)


def test_a_chorale_is_drawn_as_a_piano_roll(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    from tfm_chorales import ChoraleTask

    chorale = [[67, 64, 60, 48], [67, 65, REST, 49]]
    text = ChoraleTask(ChoraleTask.Options()).preview([chorale], None, None, 80)
    assert text.splitlines() == ["▀▀", "▄▀", "  ", "▄ ", *["  "] * 5, "▄▀"]
    text = ChoraleTask(ChoraleTask.Options()).preview([[[REST] * 4] * 3], None, None, 2)
    assert not text.strip()


def test_ids_of_chorales_come_back(tfm: Tfm, chorales: Trained) -> None:
    data = json.loads((chorales.path.parent / "chorales.json").read_text())
    steps = [step for part in data.values() for chorale in part for step in chorale]
    ids = tfm("tokenize", chorales.path, chorales.path.parent / "chorales.json").out
    assert read_midi(tfm("detokenize", chorales.path, stdin=ids).out) == steps


def test_training_reads_all_twelve_keys(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    from tfm_chorales import ChoraleTask

    keys = list(ChoraleTask(ChoraleTask.Options()).variants([[60, 57, REST, 48]]))
    assert [key[0][0] for key in keys] == list(range(54, 66))
    assert all(key[0][2] == REST and key[0][0] - key[0][3] == 12 for key in keys)


def test_chorales_are_mixed_and_told(tfm: Tfm, chorales: Trained) -> None:
    data = chorales.path.parent / "chorales.json"
    (tfm.folder / "notes.txt").write_text(prose(5000))
    mix = ("--mix", f"chorales:{data}", "--mix", "byte:notes.txt", "--size", "nano", "--steps", 2)
    parts = tfm("train", *mix, "--run", "mix", "--json").json()["parts"]
    assert parts["chorales"]["unit"] == "note"
    assert len(read_midi(tfm("sample", "mix:chorales", "--bars", 1).out)) == 16


def test_a_run_of_chorales_goes_on_and_is_seen(tfm: Tfm, chorales: Trained) -> None:
    data = chorales.path.parent / "chorales.json"
    train = ("train", "--data", data, "--size", "nano", "-q")
    tfm(*train, "--steps", 2, "--run", "half")
    assert tfm("train", "--resume", "half", "--steps", 4, "--json").json()["step"] == 4
    whole = tfm(*train, "--steps", 4, "--run", "whole", "--json").json()
    assert whole["step"] == 4 and "match" in tfm("verify", "half").err
    figures = tfm("view", chorales.path, "--item", 1, "--json").json()
    assert figures["domain"]["form"] == "ids"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bach", "--data bad.json: "),
        ("7", "--data bad.json: not of the form of --task chorales"),
        ("[[1, 2], [3]]", "--data bad.json: a step must be four pitches"),
        ('{"train": [[[1, 2, 3, "C"]]]}', "--data bad.json: a step must be four pitches"),
        ("[]", "--data bad.json: no items in it"),
        ('{"train": [[[61, 62, 63, 64]]]}', "need at least 2 that differ"),
    ],
)
def test_data_that_are_no_chorales(tfm: Tfm, text: str, said: str) -> None:
    (tfm.folder / "bad.json").write_text(text)
    error = tfm.error("train", "--task", "chorales", "--data", "bad.json", "--steps", 1)
    assert said in error and not (tfm.folder / "runs").exists()


# -- averages: a mixer ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def averages(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Trained:
    folder = tmp_path_factory.mktemp("averages")
    (folder / "prose.txt").write_text(prose(12_000))
    train = ("train", "prose.txt", "--tokenizer", "byte", "--size", "nano", "--steps", 20)
    mixers = ("--set", "model.mixers=averages,attention", "--run", "run", "--json")
    return Trained(folder / "run", Tfm(folder, {"PYTHONPATH": str(site)})(*train, *mixers).json())


def test_a_mixer_of_another_package_is_trained(tfm: Tfm, averages: Trained) -> None:
    assert averages.scores["bits_per_byte"] < 6
    assert tfm("eval", averages.path, "--json").json()["nll"] == averages.scores["nll"]
    assert "averages" in tfm("info", averages.path).text
    assert "match" in tfm("verify", averages.path).err


def test_it_decodes_what_it_scores(
    tfm: Tfm, averages: Trained, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One prompt or several side by side: logprobs are those of one pass over the whole text."""
    record = tfm("sample", averages.path, "-p", "the ", "--length", 20, "--json").json()
    side_by_side = tfm(
        "sample", averages.path, "--length", 20, "--json", stdin=b"the \na\n"
    ).lines()
    assert side_by_side[0]["text"] == record["text"]
    monkeypatch.syspath_prepend(site)
    entry_points.cache_clear()
    try:
        model = Run(averages.path).load_model("last", torch.device("cpu")).eval()
    finally:
        entry_points.cache_clear()
    ids = torch.tensor([[256, *b"the ", *record["tokens"]]])
    with torch.no_grad():
        logprobs = model.logits(model(ids))[0, :, :256].log_softmax(-1)
    found = logprobs[4:-1].gather(1, ids[0, 5:, None])[:, 0].tolist()
    assert record["logprobs"] == pytest.approx(found, abs=1e-4)


def test_its_page_has_what_every_mixer_has(tfm: Tfm, averages: Trained) -> None:
    tfm("view", averages.path, "-p", "the fox", "--out", "page.html")
    page = (tfm.folder / "page.html").read_text()
    assert "averages(y)" in page and "blocks.0.hook_mixer_out" in page
    assert tfm("view", averages.path, "-p", "the fox", "--terminal").text


def test_a_mixer_that_is_not_installed(tfm: Tfm, averages: Trained, tmp_path: Path) -> None:
    without = Tfm(tmp_path)
    said = "must be one of attention, rnn, gru, lstm, conv, attention-rnn"
    assert said in without.error("eval", averages.path)
    assert said in without.error("train", "--set", "model.mixers=averages", "--steps", 1)
    more = tfm.error("train", "--set", "model.mixers=average", "--steps", 1)
    assert f"{said}, averages, got 'average'" in more


# -- kmers: a tokenizer --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kmers(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Trained:
    folder, draw = tmp_path_factory.mktemp("kmers"), np.random.default_rng(0)
    genes = ("".join(draw.choice(list("ACGT"), 60)) for _ in range(300))
    (folder / "genes.txt").write_text("".join(f"gene {n}: {g}\n" for n, g in enumerate(genes)))
    train = ("train", "genes.txt", "--each", "line", "--tokenizer", "kmers:2", "--size", "nano")
    result = Tfm(folder, {"PYTHONPATH": str(site)})(*train, "--steps", 20, "--run", "run", "--json")
    return Trained(folder / "run", result.json())


def test_a_tokenizer_of_another_package_reads_text(tfm: Tfm, kmers: Trained) -> None:
    scores = tfm("eval", kmers.path, "--json").json()
    assert scores["nll"] == kmers.scores["nll"] and scores["bits_per_byte"] > 0
    assert scores["tokens"] < 0.7 * scores["units"], "two bases are a token"
    text = b"ACGTA and \xff\n"
    ids = tfm("tokenize", kmers.path, stdin=text).out
    assert ids.split()[:2] == [b"%d" % (256 + 1), b"%d" % (256 + 2 * 4 + 3)]
    assert tfm("detokenize", kmers.path, stdin=ids).out == text
    (tfm.folder / "gene").write_bytes(text)
    tfm("compress", kmers.path, "gene", "--out", "small")
    tfm("decompress", kmers.path, "small", "--out", "back")
    assert (tfm.folder / "back").read_bytes() == text


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("kmers:9", "--tokenizer kmers:9: the length of words must be 1 to 6"),
        ("kmers:x", "--tokenizer kmers:x: the length of words must be 1 to 6"),
        ("chorale", "--tokenizer chorale: known: byte, char, bpe"),
        ("kmer", "--tokenizer kmer: known: byte, char, bpe"),
    ],
)
def test_a_tokenizer_that_is_refused(tfm: Tfm, spec: str, said: str) -> None:
    (tfm.folder / "a.txt").write_text("some text\n" * 99)
    assert said in tfm.error("train", "a.txt", "--tokenizer", spec, "--steps", 1)
