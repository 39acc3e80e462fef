"""Every verb on every domain: those of tfm, one of another package, and the parts of a mix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Tfm
from helpers import DOMAINS, SMALL_RUN, saved_weights, write_domains

TOY = Path(__file__).parent / "toy"
MIX = {
    "text": "text:text.txt@0.3,tokenizer=bpe:300",
    "image": "image:pictures.npy@0.2",
    "series": "series:series.csv@0.2,history=16,horizon=4",
    "audio": "audio:clips@0.2,tokenizer=mulaw:32",
    "pairs": "pairs:pairs.tsv@0.1",
}


@dataclass(frozen=True)
class Case:
    """train: its flags; run: how verbs name the run, or its part; prompt: of `sample`; data: a file
    of items that `tokenize` reads; copies: whether decoded ids are those items again."""

    train: tuple[object, ...]
    run: str
    sample: tuple[object, ...] = ()
    data: str = ""
    copies: bool = True

    @property
    def folder(self) -> str:
        return self.run.partition(":")[0]


SAMPLE: dict[str, tuple[object, ...]] = {
    "text": ("-p", "the", "--length", 4),
    "byte": ("-p", "the", "--length", 4),
    "image": (),
    "series": (),
    "audio": ("--seconds", 0.02),
    "pairs": ("-p", "the fox", "--length", 4),
    "sort": ("-p", "cab"),
    "recall": ("-p", "3 17 5 20 3"),
}
DATA = {
    "text": "text.txt",
    "byte": "text.txt",
    "image": "held.npy",
    "series": "series.csv",
    "audio": "clips/0.wav",
    "pairs": "pairs.tsv",
}
LOSSY = ("series", "recall", "sort")  # detokenize writes another form of the items
CASES = {
    **{
        name: Case(
            ("--task", name, *flags), name, SAMPLE[name], DATA.get(name, ""), name not in LOSSY
        )
        for name, (flags, _, _) in DOMAINS.items()
    },
    **{
        f"mix:{name}": Case(
            tuple(word for spec in MIX.values() for word in ("--mix", spec)),
            f"mix:{name}",
            SAMPLE[name],
            DATA[name],
            name not in LOSSY,
        )
        for name in MIX
    },
    "toy": Case(("--task", "toy", "--grids", 50), "toy", data="two.grids", copies=False),
    "digits": Case(("--task", "digits", "--data", "numbers"), "digits", ("--length", 5), "numbers"),
}


@pytest.fixture(scope="module")
def tfm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tfm]:
    """The command in a folder with data of every domain; runs are made when first used."""
    root = tmp_path_factory.mktemp("every")
    write_domains(root)
    (root / "numbers").write_text("".join(f"{n:09d}\n" for n in range(0, 10**9, 10**7)))
    (root / "two.grids").write_text("[[0, 1], [1, 1]]\n[[2, 2, 3]]\n")
    yield Tfm(root, {"PYTHONPATH": str(TOY), "TFM_QUIET": "1"})


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest, tfm: Tfm) -> Case:
    found = CASES[request.param]
    if not (tfm.folder / found.folder).exists():
        tfm("train", *found.train, *SMALL_RUN, "--save-every", 1, "--run", found.folder)
    return found


def test_eval_and_score_agree(tfm: Tfm, case: Case) -> None:
    scores = tfm("eval", case.run, "--json").json()
    assert scores["units"] > 0 and scores["floor"] and scores["nll"] > 0
    items = tfm("score", case.run, "--heldout").lines()
    assert sum(item["nll"] for item in items) == pytest.approx(scores["nll"], rel=1e-4)
    if len(items) > 1:
        assert tfm("compare", case.run, case.run, "--json").json()["difference"] == 0


def test_sample(tfm: Tfm, case: Case) -> None:
    records = tfm("sample", case.run, *case.sample, "--json").lines()
    assert records and isinstance(records[0], dict)
    data = tfm("sample", case.run, *case.sample).out
    assert data or not any(record["text"] for record in records)


def test_tokenize_and_back(tfm: Tfm, case: Case) -> None:
    if not case.data:
        pytest.skip("a task that makes its items reads no files")
    ids = tfm("tokenize", case.run, case.data, "--json").out
    assert ids.count(b"\n") >= 1
    decoded = tfm("detokenize", case.run, stdin=ids).out
    assert decoded
    if case.copies:
        name = f"again{Path(case.data).suffix}"
        (tfm.folder / name).write_bytes(decoded)
        if case.run.endswith("image"):
            return  # a grid of all pictures
        again = tfm("tokenize", case.run, name, "--json").lines()
        assert [item["ids"] for item in again] == [json.loads(x)["ids"] for x in ids.splitlines()]


def test_resume_is_exact(tfm: Tfm, case: Case) -> None:
    """Training that lost its second step takes it again."""
    copied = tfm.folder / f"{case.folder}-resumed"
    if copied.exists():
        pytest.skip("another part of the same run")
    shutil.copytree(tfm.folder / case.folder, copied)
    weights = saved_weights(copied, 2)
    forget_after(copied, 1)
    tfm("train", "--resume", copied.name)
    assert saved_weights(copied, 2) == weights


def forget_after(run: Path, step: int) -> None:
    """Takes a run back to the checkpoint of a step."""
    for checkpoint in (run / "checkpoints").iterdir():
        if int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)
    log = run / "log.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    kept = [entry for entry in entries if entry.get("step", step + 1) <= step]
    log.write_text("".join(json.dumps(entry) + "\n" for entry in kept))


def test_view_and_data_show_it(tfm: Tfm, case: Case) -> None:
    figures = tfm("view", case.run, "--item", 1, "--json").json()
    assert figures["input"]["nll"]
    shown = tfm("data", case.run, "--json").json()
    assert shown["splits"]["train"]["items"] > 0


def test_probe_measures_it(tfm: Tfm, case: Case) -> None:
    """The loss of all windows is that of `eval`, whatever the ids are."""
    found = tfm("probe", case.run, "--items", 4, "--json").json()
    assert found["loss"]["value"] > 0 and found["positions"] and found["layers"]
    assert all(each["value"] >= 0 for each in found["influence"]["distances"])


def test_what_is_kept_is_whole(tfm: Tfm, case: Case) -> None:
    assert tfm("verify", case.folder).code == 0
    assert tfm("info", case.folder, "--json").json()
