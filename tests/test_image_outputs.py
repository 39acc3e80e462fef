"""What `sample`, `eval` and `score` make of pictures: files, arrays, labels, comparisons."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Tfm
from PIL import Image

from tfm.core.runs.run import Run

PIXELS = np.random.default_rng(0).integers(0, 5, (60, 6, 6), dtype=np.uint8)
LABELS = np.arange(60) % 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with labels first, last and none, on pictures whose top rows tell the label."""
    folder = tmp_path_factory.mktemp("outputs")
    pixels = PIXELS.copy()
    pixels[LABELS == 1, :3] = 4
    pixels[LABELS == 2, :3] = 0
    np.savez(folder / "a.npz", x=pixels, y=LABELS)
    for place in ("first", "last", "none"):
        quick = ("--task", "image", "--steps", 40, "--size", "nano", "--patch", 1, "-q")
        quick = (*quick, "--set", "train.batch=16")
        Tfm(folder)("train", *quick, "--data", "a.npz", "--labels", place, "--run", f"runs/{place}")
    for n in range(4):
        Image.fromarray(pixels[n] * 63).save(folder / f"p{n}.png")
    return folder


def opened(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# -- samples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["x-{n}.png", "x-{n:03d}.jpg", "x-{n:4}.webp", "folder", "new/"])
def test_each_sample_in_a_file_of_its_own(folder: Path, tmp_path: Path, out: str) -> None:
    tfm = Tfm(folder)
    (tmp_path / "folder").mkdir()
    target = f"{tmp_path}/{out}"
    done = tfm("sample", "runs/first", "-n", 3, "--label", 2, "--out", target, "--json")
    records = done.lines()
    assert [r["label"] for r in records] == ["2"] * 3
    names = [Path(r["file"]).name for r in records]
    patterns = {"folder": "{n:04d}.png", "new/": "{n:04d}.png"}
    assert names == [patterns.get(out, out).format(n=n) for n in range(3)]
    found = [opened(record["file"]) for record in records]
    assert all(pixels.shape[:2] == (6, 6) for pixels in found)
    # the same pictures as in one grid, in the same order
    tfm("sample", "runs/first", "-n", 3, "--label", 2, "--out", f"{tmp_path}/all.npz")
    arrays = np.load(tmp_path / "all.npz")
    assert arrays["images"].shape == (3, 6, 6) and arrays["labels"].tolist() == [2, 2, 2]
    if "jpg" not in out and "webp" not in out:
        assert (np.stack(found) == np.rint(arrays["images"].astype(float) * 255 / 4)).all()


def test_arrays_of_samples_are_data_again(folder: Path, tmp_path: Path) -> None:
    tfm = Tfm(folder)
    tfm("sample", "runs/first", "-n", 40, "--out", tmp_path / "drawn.npz", "-q")
    scores = tfm("eval", "runs/first", "--data", tmp_path / "drawn.npz", "--json").json()
    assert scores["images"] == 40 and scores["levels"] == 5


def test_several_prompts_are_never_two_pictures_in_one_file(folder: Path, tmp_path: Path) -> None:
    tfm = Tfm(folder)
    prompts = b"p0.png\np1.png\np2.png\n"
    args = ("sample", "runs/none", "--rows", 3)
    whole = tfm(*args, stdin=prompts).out
    assert whole.count(b"\x89PNG") == 1 and whole.endswith(b"IEND\xaeB`\x82")
    tfm(*args, "--out", tmp_path / "all.png", stdin=prompts)
    assert (tmp_path / "all.png").read_bytes() == whole
    records = tfm(*args, "--out", f"{tmp_path}/{{n}}.png", "--json", stdin=prompts).lines()
    assert [r["prompt"] for r in records] == ["p0.png", "p1.png", "p2.png"]
    for n, record in enumerate(records):
        drawn, given = opened(record["file"]), opened(folder / f"p{n}.png")
        assert np.abs(drawn[:3].astype(int) - given[:3]).max() <= 3  # of five levels
    records = tfm(*args, "--json", stdin=prompts).lines()
    assert [r["file"] for r in records] == [None] * 3


@pytest.mark.parametrize(
    "args, says",
    [
        (("--length", 0), "nothing to draw"),
        (("-p", "p0.png", "--rows", 6), "nothing to draw"),
        (("--out", "x.xyz"), "--out x.xyz: must end in .png, .jpg"),
        (("--out", "x-{n}.txt"), "must end in .png"),
        (("--out", "no/x.png"), "there is no folder no"),
        (("--scale", 2, "--out", "x.npz"), "--scale: a .npz has the pictures as they are"),
        (("--scale", 0), "--scale 0: must be 1 to 64"),
        (("--scale", -1), "--scale -1: must be 1 to 64"),
        (("--scale", 100000), "must be 1 to 64"),
        (("--label", 1), "--labels first"),
    ],
)
def test_a_draw_that_cannot_be_leaves_no_file(
    folder: Path, args: tuple[object, ...], says: str
) -> None:
    more = () if "--out" in args else ("--out", "empty.png")
    assert says in Tfm(folder).error("sample", "runs/none", *args, *more)
    assert not list(folder.glob("empty*")) and not list(folder.glob("x*"))


def test_texts_go_to_files_of_their_own_too(folder: Path, text: Path, tmp_path: Path) -> None:
    tfm = Tfm(folder)
    quick = ("--tokenizer", "byte", "--size", "nano", "--steps", 2, "-q", "--run", "runs/text")
    tfm("train", "--data", text, *quick)
    out = f"{tmp_path}/{{n}}.txt"
    records = tfm("sample", "runs/text", "-n", 3, "--length", 9, "--out", out, "--json").lines()
    for n, record in enumerate(records):
        assert (tmp_path / f"{n}.txt").read_bytes().decode("utf-8", "replace") == record["text"]
    tfm("sample", "runs/text", "-n", 2, "--length", 9, "--json", "--out", tmp_path / "all.jsonl")
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [r["text"] for r in records[:2]]


# -- labels --------------------------------------------------------------------------------------


def test_predictions_agree_with_the_accuracy(folder: Path, tmp_path: Path) -> None:
    tfm = Tfm(folder)
    args = ("eval", "runs/last", "--data", "a.npz")
    done = tfm(*args, "--predictions", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [str(label) for label in LABELS]
    assert [row["item"] for row in rows] == [f"a.npz:x[{n}]" for n in range(60)]
    assert all(1 / 3 - 1e-6 <= float(row["probability"]) <= 1 for row in rows)
    correct = [row["label"] == row["predicted"] for row in rows]
    scores = tfm(*args, "--json", "--predictions", tmp_path / "p.jsonl").json()
    assert scores["accuracy"] == pytest.approx(np.mean(correct))
    counts = np.array(scores["confusion"]["counts"])
    assert counts.sum() == 60 and np.trace(counts) == sum(correct)
    assert scores["confusion"]["labels"] == ["0", "1", "2"]
    for line in ("true label", "      0", "   0 "):
        assert line in done.text
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [(r["label"], r["predicted"]) for r in lines] == [
        (r["label"], r["predicted"]) for r in rows
    ]
    tfm("score", "runs/last", "a.npz", "--predictions", tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == (tmp_path / "p.csv").read_text()
    piped = tfm(*args, "--predictions", "-")
    assert piped.text == (tmp_path / "p.csv").read_text() and "accuracy" in piped.err
    compared = ("compare", "runs/last", "runs/last", "--data", "a.npz")
    same = tfm(*compared, "--metric", "accuracy", "--json").json()
    assert same["accuracy_b"] == pytest.approx(scores["accuracy"]) and same["items"] == 60
    assert (same["low"], same["high"], same["worse"]) == (0, 0, False)
    assert "have accuracy; without" in tfm.error(*compared, "--metric", "wql")
    heldout = tfm("eval", "runs/last", "--predictions", "-").text
    assert heldout.startswith("item,label,predicted,probability\na.npz:x[")


def test_the_probability_of_a_label_is_what_its_cost_says(folder: Path) -> None:
    """The predicted label of a picture costs -log of its probability in the score of the whole."""
    tfm = Tfm(folder)
    costs = tfm("score", "runs/last", "a.npz", "--tokens").lines()
    rows = csv.DictReader(
        io.StringIO(tfm("eval", "runs/last", "--data", "a.npz", "--predictions", "-").text)
    )
    for cost, row in zip(costs, rows, strict=True):
        if row["label"] == row["predicted"]:
            assert np.exp(-cost["nats"][-1]) == pytest.approx(float(row["probability"]), rel=1e-3)


def test_unlabelled_pictures_have_no_accuracy(folder: Path) -> None:
    tfm = Tfm(folder)
    np.save(folder / "plain.npy", PIXELS[:8])
    scores = tfm("eval", "runs/last", "--data", "plain.npy", "--json").json()
    assert scores["accuracy"] is None and scores["tokens"] == 8 * 36
    text = tfm("eval", "runs/last", "--data", "plain.npy", "--predictions", "-").text
    assert [row["label"] for row in csv.DictReader(io.StringIO(text))] == [""] * 8
    said = tfm.error("eval", "runs/first", "--predictions", "x.csv")
    assert "this run has labels first; one trained with --labels last predicts them" in said
    assert "none of 8 pictures has a label" in tfm.error(
        "eval", "runs/first", "--data", "plain.npy"
    )


def test_a_label_costs_the_same_wherever_it_is(folder: Path) -> None:
    """37 ids of a picture with its label are scored, first or last: the two runs may be compared,
    and neither with one that scores no labels."""
    tfm = Tfm(folder)
    scores = {p: tfm("eval", f"runs/{p}", "--json").json() for p in ("first", "last", "none")}
    images = scores["none"]["images"]
    assert [s["tokens"] / images for s in scores.values()] == [37, 37, 36]
    done = tfm("compare", "runs/first", "runs/last", "--json", "--margin", 100).json()
    assert done["bits_per_dim_a"] == pytest.approx(scores["first"]["bits_per_dim"], rel=1e-4)
    said = tfm.error("compare", "runs/first", "runs/none")
    assert "are not comparable: 3 labels (first) against 0 labels (none)" in said


def test_pictures_of_another_form_are_not_compared(folder: Path) -> None:
    tfm = Tfm(folder)
    quick = ("--task", "image", "--steps", 1, "--size", "nano", "-q", "--labels", "none")
    tfm("train", *quick, "--data", "a.npz", "--levels", 2, "--run", "runs/two")
    said = tfm.error("compare", "runs/none", "runs/two")
    assert "6x6 grey, 5 levels against 6x6 grey, 2 levels" in said


# -- scores on the way ---------------------------------------------------------------------------


@pytest.mark.parametrize("flags, unit", [((), "bits/dim"), (("--stages", 1), "nats/token")])
def test_scores_on_the_way_have_one_unit_and_a_standard_error(
    folder: Path, flags: tuple[object, ...], unit: str
) -> None:
    """A code of a codebook has nats: never shown as bits, nor beside baselines in bits."""
    args = ("--task", "image", "--data", "a.npz", "--steps", 8, "--size", "nano")
    name = f"way{len(flags)}"
    done = Tfm(folder)("train", *args, "--run", f"runs/{name}", *flags)
    progress = next(line for line in done.err.splitlines() if line.startswith("step 8/8"))
    other = "bits" if unit == "nats/token" else "nats"
    assert f" {unit}  " in progress and " ± " in progress and other not in progress
    final = next(line for line in done.err.splitlines() if line.startswith("held out: "))
    assert ("baselines" in final) == (unit == "bits/dim")
    entries = [e for e in Run(folder / "runs" / name).log() if e.get("event") == "eval"]
    assert all(0 < e["standard_error"] < e["nats_per_token"] for e in entries)
