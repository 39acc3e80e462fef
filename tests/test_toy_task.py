"""Tasks that live outside the package, found by their entry points, go through every command.

The items of `toy` are what text is not: of two axes, of several sizes, with side information that
decoding needs, with positions that do not count, and with other legal ids at each place. `digits`
has the required members of a task and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Tfm, Trained

from tfm.core.laws import check_tokenizer

TOY = Path(__file__).parent / "toy"
COLOURS = 4


@pytest.fixture
def toy(tmp_path: Path) -> Tfm:
    """The command, where the package `toy` is installed."""
    return Tfm(tmp_path, {"PYTHONPATH": str(TOY)})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("toy")
    result = Tfm(folder, {"PYTHONPATH": str(TOY)})(
        *("train", "--task", "toy", "--grids", 50, "--size", "nano", "--steps", 30),
        *("--set", "train.batch=8", "--run", "run", "--json"),
    )
    return Trained(folder / "run", result.json())


NUMBERS = "".join(f"{number:09d}\n" for number in range(0, 10**9, 10**7))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("digits")
    (folder / "numbers").write_text(NUMBERS)
    arguments = ("train", "--task", "digits", "--data", "numbers", "--size", "nano", "--steps", 20)
    small = ("--set", "train.batch=8", "--run", "run", "--json")
    result = Tfm(folder, {"PYTHONPATH": str(TOY)})(*arguments, *small)
    return Trained(folder / "run", result.json())


def test_its_tokenizer_obeys_the_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOY)
    from toy import GridTokenizer, random_grids

    check_tokenizer(GridTokenizer(), random_grids(50))


def test_it_is_a_task_like_any_other(toy: Tfm, tfm: Tfm) -> None:
    listed = {task["task"]: task for task in toy("tasks", "--json").json()["tasks"]}
    assert {"text", "byte", "toy"} <= set(listed)
    assert listed["toy"]["unit"] == "cell"
    assert [option["name"] for option in listed["toy"]["options"]] == ["grids"]
    assert "--grids" in toy("train", "--task", "toy", "--help").text
    assert "no such task" in tfm.error("train", "--task", "toy", "--steps", 1)


def test_its_options_are_flags(toy: Tfm, run: Trained) -> None:
    config = json.loads((run.path / "config.json").read_text())
    assert config["task_options"] == {"grids": 50}
    assert "--grids" in toy.error("train", "--task", "toy", "--grids", "many", "--steps", 1)
    assert "--grids" in toy.error("train", "--task", "text", "--grids", 5, "--steps", 1)


def test_it_is_scored_in_its_own_units(toy: Tfm, run: Trained) -> None:
    scores = toy("eval", run.path, "--json").json()
    assert scores["task"] == "toy" and scores["unit"] == "cell"
    assert scores["nll"] == run.scores["nll"]
    assert scores["grids"] == 5, "a tenth of 50, whole"
    assert scores["floor"] == {"uniform": 2.0}
    assert 0 < scores["bits_per_cell"] < 2.0, "it learned that cells are alike"
    # of each grid, one cell in three does not count, and the label does
    assert scores["tokens"] < scores["units"] + scores["grids"]


@pytest.mark.parametrize("height", [1, 3, 5])
def test_every_sample_is_a_legal_grid(toy: Tfm, run: Trained, height: int) -> None:
    drawn = toy("sample", run.path, "-p", "", "--height", height).lines()
    for cells, label in drawn:
        assert len(cells) == height and {len(row) for row in cells} == {3}
        assert all(0 <= cell < COLOURS for row in cells for cell in row)
        assert 0 <= label < COLOURS
    assert len(drawn) == 1


def test_draws_differ_and_end_with_the_item(toy: Tfm, run: Trained) -> None:
    arguments = ("sample", run.path, "--json", "-n", 6, "--temperature", 2, "--length", 99)
    records = toy(*arguments).lines()
    assert len(records) == 6 and len({str(r["tokens"]) for r in records}) > 1
    for record in records:
        *cells, label = record["tokens"]
        assert len(cells) == 9 and all(0 <= id < COLOURS for id in cells)
        assert COLOURS <= label < 2 * COLOURS
        assert record["finish_reason"] == "end", "after the label, nothing is legal"


def test_it_goes_on_where_it_was_interrupted(toy: Tfm, run: Trained) -> None:
    arguments = ("train", "--task", "toy", "--grids", 50, "--size", "nano")
    toy(*arguments, "--steps", 10, "--run", "half")
    result = toy("train", "--resume", "half", "--steps", 12, "--json").json()
    assert result["step"] == 12


def test_it_claims_its_files(toy: Tfm) -> None:
    lines = [json.dumps([[n % COLOURS] * 3] * 2) + "\n" for n in range(20)]
    (toy.folder / "some.grids").write_text("".join(lines))
    result = toy("train", "--data", "some.grids", "--size", "nano", "--steps", 2, "--json")
    assert "some.grids looks like --task toy" in result.err
    assert result.json()["units"] == 5 * 6, "equal grids are held out together: all of one colour"


def test_the_required_members_are_enough(toy: Tfm, digits: Trained) -> None:
    again = toy("eval", digits.path, "--json").json()
    assert (again["unit"], again["units"], again["floor"]) == ("digit", 9, {"uniform": 3.32})
    assert again["nll"] == digits.scores["nll"] and "bits_per_digit" in again
    drawn = toy("sample", digits.path, "-n", 2, "--length", 9).out
    assert len(drawn) == 2 * (9 + 1) and drawn.endswith(b"\n")
    ids = toy("tokenize", digits.path, digits.path.parent / "numbers").out
    assert toy("detokenize", digits.path, stdin=ids).text == NUMBERS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "--task", "digits", "--steps", 1), "--data: required, the digits task has no"),
        (
            ("train", "--task", "digits", "--data", "numbers", "--steps", 1, "--patience", 1),
            "--patience, --until: the digits task needs --test as well",
        ),
        (("eval", "run", "--protocol", "last"), "--protocol last: the digits task has none"),
        (("eval", "run", "--as-coded"), "compress does not support --task digits"),
        (("sample", "run", "-p", "12"), "--prompt: the digits task has no prompts"),
    ],
    ids=str,
)
def test_what_a_task_does_not_have_is_refused(
    toy: Tfm, digits: Trained, arguments: tuple[object, ...], said: str
) -> None:
    command = [digits.path.parent / "numbers" if word == "numbers" else word for word in arguments]
    assert said in toy.error(*[digits.path if word == "run" else word for word in command])


def test_it_can_be_seen_and_mixed(toy: Tfm, run: Trained, digits: Trained) -> None:
    """A domain that says nothing of how it looks is shown by the numbers of its ids."""
    figures = toy("view", run.path, "--item", 1, "--json").json()
    assert figures["domain"]["form"] == "ids"
    item = toy("score", run.path, "--heldout", "--tokens").lines()[0]
    own = figures["input"]
    counted = [loss for loss, counts in zip(own["nll"], own["counted"], strict=True) if counts]
    assert sum(counted) == pytest.approx(item["nll"], rel=1e-4)
    (toy.folder / "numbers").write_text(NUMBERS)
    mix = ("--mix", "toy@2,grids=30", "--mix", "digits:numbers", "--run", "mix")
    scores = toy("train", *mix, "--steps", 2, "--size", "nano", "--json").json()
    assert {name: part["unit"] for name, part in scores["parts"].items()} == {
        "toy": "cell",
        "digits": "digit",
    }
    assert toy("sample", "mix:digits", "--length", 3).out
