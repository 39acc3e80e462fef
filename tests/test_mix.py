"""Several domains in one model: each part behaves as a run of its domain alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tfm
from helpers import prose, saved_weights

from tfm.core.config import ModelConfig
from tfm.core.data.datasets import step_batch
from tfm.core.errors import ConfigError, UsageError
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.protocols import Sequence
from tfm.core.runs.catalogue import open_run
from tfm.core.score.likelihood import evaluate
from tfm.tasks._mix.parts import lasting, parse_parts
from tfm.tasks._mix.rows import MixedRows
from tfm.tasks.mix import MixTask
from tfm.tokenizers.byte import SingleByteTokenizer
from tfm.tokenizers.mixed import MixedTokenizer

PARTS = {
    "text": "text:text.txt@0.4,tokenizer=bpe:300",
    "image": "image:pictures.npy@0.3",
    "series": "series:series.csv@0.2,history=16,horizon=4",
    "pairs": "pairs:pairs.tsv@0.1",
}
MIX = tuple(word for spec in PARTS.values() for word in ("--mix", spec))
SMALL = ("--size", "nano", "--set", "train.batch=4")
SORT = "sort,max_length=4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mix")
    (root / "text.txt").write_text(prose(6000))
    (root / "other.txt").write_text(prose(6000, seed=1).upper())
    lines = sorted(set(prose(3000).splitlines()))
    (root / "pairs.tsv").write_text("".join(f"{x}\t{x[::-1]}\n" for x in lines))
    draw = np.random.default_rng(0)
    np.save(root / "pictures.npy", draw.integers(0, 3, (40, 4, 5), np.uint8))
    walk = draw.normal(size=200).cumsum() + 50
    rows = [f"2020-01-01 {n // 60 % 24:02d}:{n % 60:02d},{x:.3f}" for n, x in enumerate(walk)]
    (root / "series.csv").write_text("time,value\n" + "\n".join(rows) + "\n")
    tfm = Tfm(root, {"TFM_QUIET": "1"})
    tfm("train", *MIX, *SMALL, "--steps", 4, "--save-every", 2, "--run", "mix")
    return root


# -- every verb ------------------------------------------------------------------------------------


def test_eval_has_each_part_in_its_own_units(folder: Path) -> None:
    tfm = Tfm(folder)
    whole = tfm("eval", "mix", "--json").json()
    assert set(whole["parts"]) == set(PARTS) and whole["unit"] == "token"
    assert whole["nll"] == pytest.approx(sum(p["nll"] for p in whole["parts"].values()), rel=1e-5)
    units = {"text": "byte", "image": "dim", "series": "point", "pairs": "byte"}
    for name, unit in units.items():
        part, alone = whole["parts"][name], tfm("eval", f"mix:{name}", "--json").json()
        assert part["unit"] == unit and part["task"] == name
        assert alone["nll"] == pytest.approx(part["nll"], rel=1e-5)
        assert alone["floor"] == part["floor"] and alone["floor"]
        shown = tfm("eval", "mix").text
        assert f"bits per {unit}" in shown or name == "series"


def test_a_part_is_named_by_a_flag_too(folder: Path) -> None:
    """test_every_domain.py has RUN:PART with every verb."""
    tfm, run, named = Tfm(folder), ("mix:text",), ("mix", "--task", "text")
    for verb, *flags in (("sample", "-p", "the", "--length", 4, "--json"), ("score", "--heldout")):
        assert tfm(verb, *named, *flags).out == tfm(verb, *run, *flags).out
    scores = [tfm("eval", *words, "--json").json()["nll"] for words in (named, run)]
    assert scores[0] == scores[1]
    assert "the logit lens" in tfm("view", *named, "--item", 1, "--terminal").text
    assert tfm("compare", *run, *named, "--json").json()["difference"] == 0
    packed = tfm("compress", *run, "-", stdin=b"the fox \xff").out
    assert tfm("decompress", *run, "-", stdin=packed).out == b"the fox \xff"


def test_a_killed_training_goes_on_exactly(folder: Path) -> None:
    tfm = Tfm(folder)
    run = shutil.copytree(folder / "mix", folder / "resumed")
    weights = saved_weights(run, 4)
    shutil.rmtree(run / "checkpoints/000004")
    log = run / "log.jsonl"
    kept = [line for line in log.read_text().splitlines() if json.loads(line).get("step", 9) <= 2]
    log.write_text("\n".join(kept) + "\n")
    tfm("train", "--resume", "resumed")
    assert saved_weights(run, 4) == weights


def test_a_part_must_be_named_and_exist(folder: Path) -> None:
    tfm = Tfm(folder)
    assert "name one: " in (said := tfm.error("sample", "mix", "-p", "a")) and "mix:text" in said
    assert "this run has the parts" in tfm.error("eval", "mix:audio")
    assert "mix:text" in tfm.error("view", "mix", "--item", 1)
    tfm("train", "--data", "text.txt", *SMALL, "--steps", 1, "--run", "plain")
    assert "has one domain only" in tfm.error("eval", "plain:image")
    assert "has one domain only" in tfm.error("sample", "plain", "--task", "image", "-p", "a")
    alone = tfm("compare", "plain", "mix", "--task", "text", "--data", "other.txt", "--json")
    assert alone.json()["unit"] == "byte"


def test_what_takes_a_whole_run_says_so(folder: Path) -> None:
    tfm = Tfm(folder)
    for verb in (("rerun", "mix:text"), ("train", "--resume", "mix:text")):
        assert "this command takes the whole run" in tfm.error(*verb)
    assert "match their checksums" in tfm("verify", "mix:text").err
    said = tfm.error("sample", "mix:text", "--task", "image", "-p", "a")
    assert "two parts, text and image, of one run" in said
    assert "mix:image" in tfm("info", "mix:image").text


def test_a_file_whose_name_looks_like_a_spec_is_that_file(folder: Path) -> None:
    odd = folder / "a,b=c@2.txt"
    odd.write_text(prose(6000))
    (part,) = parse_parts([f"text:{odd}@3,name=odd"])
    assert (part.path, part.weight, part.name) == (str(odd), 3.0, "odd")
    (part,) = parse_parts([f"text:{odd}"])
    assert (part.path, part.weight) == (str(odd), 1.0)


def test_two_texts_and_data_that_every_machine_has(folder: Path) -> None:
    tfm = Tfm(folder)
    texts = ("--mix", "text:text.txt", "--mix", "text:other.txt@2,name=capitals", "--mix", SORT)
    run = ("--run", "texts", "--steps", 2, *SMALL)
    scores = tfm("train", *texts, *run, "--json").json()
    assert set(scores["parts"]) == {"text-1", "capitals", "sort"}
    assert tfm("sample", "texts:capitals", "-p", "THE", "--length", 3).out


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        (("text:missing.txt",), "missing.txt: no such file"),
        (("txt:text.txt",), "txt: no such task"),
        (("text:text.txt@0",), "the weight after @ must be a number above 0"),
        (("text:text.txt@-1",), "the weight after @ must be a number above 0"),
        (("text:",), "no data after the colon"),
        (("text:text.txt,horizon=3",), "horizon: no such field"),
        (("series:series.csv,horizon=x",), "horizon: must be a whole number"),
        (("text:text.txt,name=a", "text:other.txt,name=a"), "two parts are named a"),
        (("text:text.txt,name=a b",), "a name is 1 to 32 of"),
        (("text:text.txt,tokenizer=bpf",), "--tokenizer bpf: known: byte"),
        (("mix",), "a mix has no mixes"),
        (("text:-",), "a part reads files"),
        (("text:text.txt@nan",), "the weight after @ must be a number above 0"),
        (("text:text.txt,holdout=0.3",), "holdout: no such field"),
        (("text:text.txt,name=a,name=b",), "an option is given twice"),
        (("text:text.txt,name=",), "a name is 1 to 32 of"),
        (("",), "must be TASK[:PATH][@WEIGHT]"),
        (("text:text.txt\ntext:other.txt",), "a newline in it"),
    ],
    ids=str,
)
def test_what_a_mix_cannot_be(folder: Path, mix: tuple[str, ...], said: str) -> None:
    words = [word for spec in mix for word in ("--mix", spec)]
    assert said in Tfm(folder).error("train", *words, "--steps", 1)


def test_a_mix_names_its_own_data(folder: Path) -> None:
    tfm = Tfm(folder)
    mix = ("train", "--mix", "text:text.txt", "--steps", 1)
    assert "--data and --mix exclude each other" in tfm.error(*mix, "--data", "text.txt")
    assert "--task text and --mix exclude each other" in tfm.error(*mix, "--task", "text")
    assert "each part of a mix has its own" in tfm.error(*mix, "--tokenizer", "byte")
    assert "name its parts" in tfm.error("train", "--task", "mix", "--steps", 1)


def test_weights_go_into_a_mix_and_back(folder: Path) -> None:
    """What the vocabularies share is kept: a run's rows, blocks and tokenizer."""
    tfm = Tfm(folder)
    tfm("train", "--data", "text.txt", "--tokenizer", "char", *SMALL, "--steps", 3, "--run", "one")
    into = (
        "train",
        "--init",
        "one",
        "--mix",
        PARTS["image"],
        "--mix",
        "text:text.txt",
        "--steps",
        1,
    )
    still = ("--set", "train.lr=1e-9", "--set", "train.adam_lr=1e-9", *SMALL[2:])
    tfm(*into, *still, "--run", "into")
    one, part = open_run("one", folder), open_run("into:text", folder)
    assert part.tokenizer().state()[0] == one.tokenizer().state()[0]
    for (name, x), y in zip(
        one.load_model().state_dict().items(), part.load_model().state_dict().values(), strict=True
    ):
        torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-6, msg=name)
    tfm("train", "--init", "into:text", "--data", "text.txt", "--steps", 1, *still, "--run", "back")
    back = open_run("back", folder).load_model().state_dict()
    for name, x in one.load_model().state_dict().items():
        torch.testing.assert_close(x, back[name], atol=1e-6, rtol=1e-6, msg=name)
    shutil.rmtree(folder / "into/checkpoints")
    (folder / "into/checkpoints").mkdir()
    (folder / "into/log.jsonl").write_text("")
    tfm("train", "--resume", "into")  # from its beginning, with those weights again
    again = open_run("into:text", folder).load_model().embedding.weight
    torch.testing.assert_close(again, one.load_model().embedding.weight, atol=1e-6, rtol=1e-6)
    said = tfm.error("train", "--init", "one", "--mix", "sort", "--steps", 1)
    assert "--task mix: the run of --init is a text run" in said


# -- laws ------------------------------------------------------------------------------------------


def test_a_part_of_a_model_is_that_model_within_its_ids(folder: Path) -> None:
    """The likelihoods of a part's items under the whole model and under the part are the same, and
    probabilities over a part's ids sum to one."""
    run = open_run("mix", folder, whole=True)
    tokenizer, model = run.tokenizer(), run.load_model().eval()
    sequences = list(run.heldout("valid"))[-8:] + list(run.heldout("valid"))[:2]
    whole = [score.nll for score in evaluate(model, tokenizer, sequences)]
    for sequence, nll in zip(sequences, whole, strict=True):
        name = sequence.side["part"]
        low, high = tokenizer.ids_of(name)
        part = model.part(low, high)
        (own,) = evaluate(part, tokenizer.parts[name], [tokenizer.out_of(sequence)])
        assert own.nll == pytest.approx(nll, rel=1e-4)
        assert part.head.weight.data_ptr() == model.head.weight[low:high].data_ptr()
        p = part.logits(torch.zeros(1, model.config.width)).softmax(-1)
        assert float(p.sum().detach()) == pytest.approx(1) and p.shape[-1] == high - low


def test_ids_of_parts_do_not_meet(folder: Path) -> None:
    run = open_run("mix", folder, whole=True)
    tokenizer = run.tokenizer()
    state, arrays = tokenizer.state()
    again = MixedTokenizer.from_state(json.loads(json.dumps(state)), arrays)
    assert again.offsets == tokenizer.offsets and list(again.parts) == list(tokenizer.parts)
    ranges = sorted(tokenizer.ids_of(name) for name in tokenizer.parts)
    assert [high for _, high in ranges] == [low for low, _ in ranges[1:]] + [tokenizer.vocab_size]
    for sequence in run.heldout("valid"):
        low, high = tokenizer.ids_of(sequence.side["part"])
        assert low <= sequence.ids.min() and sequence.ids.max() < high
        own = tokenizer.out_of(sequence)
        back = tokenizer.into(own, sequence.side["part"])
        assert (back.ids == sequence.ids).all() and back.side == sequence.side


class Fixed:
    """Rows of a part: row i of epoch e has the ids i, e and zeros."""

    def __init__(self, rows: int, context: int) -> None:
        self.rows, self.context = rows, context

    def __len__(self) -> int:
        return self.rows

    def batch(self, indices: Any) -> Any:
        from tfm.core.protocols import Batch

        ids = np.zeros((len(indices), self.context + 1), np.int64)
        ids[:, 0], ids[:, 1] = indices % self.rows, indices // self.rows
        weight = np.ones(ids.shape, np.float32)
        weight[:, 0] = 0
        return Batch(ids, weight)


def mixed(one: Fixed, other: Fixed, share: float, context: int = 20) -> MixedRows:
    tokenizer = MixedTokenizer({"a": SingleByteTokenizer(), "b": SingleByteTokenizer()})
    return MixedRows({"a": one, "b": other}, {"a": share, "b": 1 - share}, tokenizer, context, 0)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_weights_are_shares_of_tokens(share: float) -> None:
    """Of rows of another length too, of which several stand in one row."""
    data = mixed(Fixed(50, 20), Fixed(400, 6), share)
    assert data.fits == [1, 3]
    counts = {"a": 0.0, "b": 0.0}
    for step in range(60):
        batch = step_batch(data, step, 10, 0)
        first = batch.ids < 257
        counts["a"] += float(batch.weight[first].sum())
        counts["b"] += float(batch.weight[~first].sum())
    assert counts["a"] / (counts["a"] + counts["b"]) == pytest.approx(share, abs=0.05)


def test_every_row_of_every_part_is_seen_equally_often() -> None:
    data = mixed(Fixed(7, 20), Fixed(30, 6), 0.5)
    seen: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    for step in range(2 * len(data)):
        batch = step_batch(data, step, 1, 0)
        for at in range(0, 21, 21 if batch.segments is None or batch.segments[0, 7] == 0 else 7):
            part = int(batch.ids[0, at] >= 257)
            row, epoch = batch.ids[0, at : at + 2] - 257 * part
            seen[part].append((int(epoch), int(row)))
    for part, rows in ((0, 7), (1, 30)):
        whole = max(epoch for epoch, _ in seen[part])
        complete = [each for each in seen[part] if each[0] < whole]
        assert len(complete) == len(set(complete)) == whole * rows


def test_rows_that_share_a_row_do_not_see_each_other() -> None:
    data = mixed(Fixed(50, 20), Fixed(400, 6), 0.5)
    batch = data.batch(np.arange(len(data)))
    assert batch.segments is not None and batch.positions is not None
    row = int(np.flatnonzero(batch.ids[:, 0] >= 257)[0])
    assert batch.segments[row].tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert batch.positions[row, :, 0].tolist() == [*range(7)] * 3
    assert (batch.support[row] == [257, 514]).all()  # type: ignore[index]


def test_a_mix_of_one_part_is_that_part(folder: Path) -> None:
    """Within noise: the rows are the same, their order is not."""
    tfm = Tfm(folder)
    common = ("--steps", 25, "--size", "nano", "--seed", 1, "--json")
    plain = tfm("train", "--data", "text.txt", "--tokenizer", "char", *common, "--run", "p").json()
    part = ("--mix", "text:text.txt,tokenizer=char")
    alone = tfm("train", *part, *common, "--run", "m").json()["parts"]["text"]
    assert alone["bits_per_byte"] == pytest.approx(plain["bits_per_byte"], rel=0.05)
    assert alone["units"] == plain["units"] and alone["floor"] == plain["floor"]


def test_one_axis_and_two_share_the_same_frequencies() -> None:
    """A position counted on every axis is rotated as in a model of one axis."""
    from tfm.core.model.positions import rotary_angles

    one = ModelConfig(width=32, heads=2, axes=1)
    two = ModelConfig(width=32, heads=2, axes=2)
    places = torch.arange(9)[:, None]
    expected = rotary_angles(places, one)
    for given in (places, places.expand(-1, 2)):
        for x, y in zip(rotary_angles(given, two), expected, strict=True):
            torch.testing.assert_close(x, y)
    model = SequenceModel(ModelConfig(width=32, heads=2, layers=1, axes=2, vocab_size=9))
    ids = torch.arange(9)[None]
    torch.testing.assert_close(model(ids), model(ids, places[None].expand(-1, -1, 2)))


# -- names -----------------------------------------------------------------------------------------


def test_specs_name_paths_weights_and_options() -> None:
    parts = parse_parts(["text:a@b.txt@0.5", "text:c,d.txt", "series,horizon=3,name=x", "image@2"])
    assert [(p.name, p.path, p.weight) for p in parts] == [
        ("text-1", "a@b.txt", 0.5),
        ("text-2", "c,d.txt", 1.0),
        ("x", None, 1.0),
        ("image", None, 2.0),
    ]
    assert parts[2].task.options.horizon == 3
    assert lasting("image@2,labels=none") == "image@2,labels=none"
    assert lasting("text:a.txt@1") == f"text:{Path('a.txt').absolute()}@1"
    with pytest.raises(UsageError, match="weight"):
        parse_parts(["text:a.txt@1e999"])
    with pytest.raises(ConfigError, match="no such task"):
        MixTask(MixTask.Options("nothing"))


def test_a_sequence_keeps_its_side_information() -> None:
    tokenizer = MixedTokenizer({"a": SingleByteTokenizer(), "b": SingleByteTokenizer()})
    sequence = Sequence(np.array([256, 1, 2]), 2, side={"id": "x"})
    inside = tokenizer.into(sequence, "b")
    assert inside.ids.tolist() == [513, 258, 259] and inside.side == {"id": "x", "part": "b"}
    assert tokenizer.support(3, inside.side) == (257, 513)
    assert tokenizer.decode(inside.ids, inside.side)[0] == "b"


@pytest.mark.parametrize("cap", [0.0, 15.0])
def test_the_loss_by_ranges_is_the_masked_loss(cap: float) -> None:
    """Value and gradients, of positions that have one of three ranges, some without weight."""
    from tfm.core.model.loss import Objective
    from tfm.core.ops.reference import linear_nll
    from tfm.core.protocols import Batch

    torch.manual_seed(0)
    config = ModelConfig(vocab_size=600, layers=1, width=16, heads=2, context=12, softcap=cap)
    model = SequenceModel(config)
    ranges = torch.tensor([[0, 100], [100, 250], [250, 300]])
    which = torch.randint(0, 3, (4, 13))
    support = ranges[which]
    ids = support[..., 0] + torch.randint(0, 50, (4, 13))
    batch = Batch(ids, (torch.rand(4, 13) > 0.3).float(), support=support)
    loss = Objective(model)(batch)
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    hidden = model(ids[:, :-1])
    rows = hidden.flatten(0, 1), ids[:, 1:].flatten(), batch.weight[:, 1:].flatten()
    masked = linear_nll(model.head, *rows, (0, 600), support[:, 1:].flatten(0, 1), cap)
    torch.testing.assert_close(loss, masked)
    expected = torch.autograd.grad(masked, list(model.parameters()), allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
