"""`tfm view`: pages and terminal views of every domain, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm, Trained
from helpers import DOMAINS, prose
from PIL import Image


def data_of(page: bytes) -> dict[str, Any]:
    found = re.search(rb'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.mark.parametrize("task", DOMAINS)
def test_a_page_of_every_domain(domains: Path, task: str) -> None:
    """Of a held-out item and of what is given: its tokens, and the model's own loss of each."""
    _, prompt, form = DOMAINS[task]
    tfm = Tfm(domains)
    assert tfm("view", task, "--item", 2, "-o", f"{task}.html", "--force").out == b""
    data = data_of((domains / f"{task}.html").read_bytes())
    assert data["domain"]["form"] == form and data["domain"]["task"] == task
    scored = tfm("score", task, "--heldout", "--tokens").lines()
    if task not in ("text", "byte"):  # one item a line; their item is a window of the text
        own = data["input"]
        counted = [loss for loss, counts in zip(own["nll"], own["counted"], strict=True) if counts]
        nats = [each for each in scored[1]["nats"] if each]
        assert counted == pytest.approx(nats, rel=2e-4, abs=1e-4)
    labels = [data["labels"][str(id)] for id in data["input"]["ids"]]
    assert len(labels) == len(data["input"]["ids"])
    given = data_of(tfm("view", task, "-p", prompt).out)
    assert given["run"]["item"] is None
    assert (given["input"]["targets"][-1] is None) is (task != "image")  # a picture is whole
    if task in ("text", "byte"):
        read = "".join(given["labels"][str(id)] for id in given["input"]["ids"])
        assert read.removeprefix("<begin>") == prompt


def test_the_figures_of_a_page_are_json(domains: Path) -> None:
    tfm = Tfm(domains)
    figures = tfm("view", "text", "--item", 2, "--json").json()
    page = data_of(tfm("view", "text", "--item", 2).out)
    assert figures.pop("schema") == 1 and "tensors" not in figures
    assert figures == {name: page[name] for name in figures}


def test_a_text_counts_as_windows_of_the_context(domains: Path) -> None:
    tfm = Tfm(domains)
    first, second = (data_of(tfm("view", "text", "--item", n).out)["input"] for n in (1, 2))
    assert second["ids"][0] == first["targets"][-1], "the second goes on where the first ends"
    said = tfm.error("view", "text", "--item", 999)
    assert re.search(r"--item 999: this run holds out \d+ items", said)


def test_a_long_prompt_is_cut_and_this_is_said(domains: Path) -> None:
    tfm = Tfm(domains)
    seen = tfm("view", "text", "-p", prose(3000), "-o", "long.html")
    assert "the last that fit the context of 64 are read" in seen.err
    assert len(data_of((domains / "long.html").read_bytes())["input"]["ids"]) == 64


def test_the_picture_of_a_prompt_is_that_file(domains: Path) -> None:
    data = data_of(Tfm(domains)("view", "image", "-p", "one.png").out)
    pixels = np.array(Image.open(domains / "one.png"))
    found = np.array(data["domain"]["pixels"]).reshape(4, 6)
    levels = data["domain"]["thumbnails"]
    assert np.abs(found - pixels).max() <= 128 and len(levels) >= 2  # a codebook of two steps
    cells = [cell for cell in data["domain"]["cells"] if cell is not None]
    assert cells[0] == [0, 0, 0] and len(cells) == len(data["input"]["ids"]) == 24
    assert np.array(data["domain"]["guesses"]).shape == (len(data["lens"]["levels"]), 24)


def test_values_of_a_series_are_those_of_the_file(domains: Path) -> None:
    """base + scale * centre of an id is the value that it stands for."""
    data = data_of(Tfm(domains)("view", "series", "-p", "series.csv").out)
    domain, ids = data["domain"], data["input"]["ids"]
    walk = np.loadtxt(domains / "series.csv", delimiter=",", skiprows=1, usecols=1)
    np.testing.assert_allclose(domain["values"], walk[-16:], atol=0.5)
    decoded = [
        domain["base"][n] + domain["scale"][n] * domain["centres"][id - domain["first_bin"]]
        for n, id in enumerate(ids[1:])
    ]
    np.testing.assert_allclose(decoded, domain["values"], rtol=1e-4)
    assert domain["times"][-2].endswith("03:19") and domain["history"] == 16


def test_the_model_answers_where_an_answer_is_expected(domains: Path) -> None:
    """Of pairs, the page shows the whole decoder: it has written the target itself."""
    data = data_of(Tfm(domains)("view", "pairs", "-p", "the fox").out)
    said = Tfm(domains)("sample", "pairs", "-p", "the fox").text.rstrip("\n")
    read = "".join(data["labels"][str(id)] for id in data["input"]["ids"][1:])
    assert read == said[: len(read)]
    assert len(data["input"]["source"]) == data["input"]["given"]
    assert data["input"]["answered"]
    shown = Tfm(domains)("view", "pairs", "-p", "the fox", "--terminal").text
    assert "the answer is the model's own" in " ".join(shown.split()) and "it wrote" in shown


def test_the_size_of_a_page_is_kept(domains: Path) -> None:
    tfm = Tfm(domains)
    whole = tfm("view", "text", "--item", 1).out
    for part in (0.9, 0.6, 0.4):
        most = len(whole) * part / 1e6
        seen = tfm("view", "text", "--item", 1, "-o", "small.html", "--force", "--max-mb", most)
        size = (domains / "small.html").stat().st_size
        assert size <= most * 1e6
        left_out = data_of((domains / "small.html").read_bytes())["left_out"]
        assert any(sentence in seen.err for sentence in left_out), "what is left out is said"
    said = tfm.error("view", "text", "--item", 1, "--max-mb", 0.01)
    assert re.search(r"--max-mb 0.01: the smallest page of this input has 0\.\d MB", said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "-p TEXT or --item N: give one of them"),
        (("-p", "a", "--item", 1), "-p TEXT or --item N: give one of them"),
        (("-p", ""), "-p: is empty"),
        (("-p", "@missing"), "-p @missing: No such file"),
        (("-p", "a", "-o", "missing/a.html"), "there is no folder missing"),
        (("-p", "a", "-o", "."), "a folder"),
        (("-p", "a", "-o", "there.html"), "already exists; --force overwrites it"),
        (("-p", "a", "--split", "test"), "--split: needs --item"),
        (("--item", 1, "--split", "test"), "--split test: this run keeps valid"),
        (("-p", "a", "--max-mb", 0), "--max-mb: must be above 0"),
        (("-p", "a", "--terminal", "-o", "a.html"), "--terminal: shows no page"),
        (("-p", "a", "--terminal", "--json"), "--terminal and --json exclude each other"),
        (("--item", 0), "'--item': 0 is not in the range"),
    ],
    ids=str,
)
def test_what_cannot_be_shown(trained: Trained, tfm: Tfm, arguments: Any, said: str) -> None:
    (tfm.folder / "there.html").write_text("mine")
    assert said in tfm.error("view", trained.path, *arguments)
    assert (tfm.folder / "there.html").read_text() == "mine"
    assert [path.name for path in tfm.folder.iterdir()] == ["there.html"]


def test_hostile_tokens_are_data(domains: Path) -> None:
    """Nothing that a token can contain ends the element that it is in."""
    hostile = "</script><script>alert(1)</script>\x07\x1b[31m\u202eabc\r\n<!--"
    page = Tfm(domains)("view", "byte", "-p", "-", stdin=hostile.encode()).out
    assert page.count(b"</script>") == 3 and b"alert(1)" not in page
    data = data_of(page)
    read = "".join(data["labels"][str(id)] for id in data["input"]["ids"][1:])
    assert read == hostile.encode().decode("ascii", "backslashreplace")


# -- the terminal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", DOMAINS)
def test_the_terminal_shows_every_domain(domains: Path, task: str) -> None:
    env = {"COLUMNS": "80"}
    shown = Tfm(domains)("view", task, "--item", 1, "--terminal", env=env).text
    assert max(map(len, shown.splitlines())) <= 80
    assert "the logit lens" in shown and "the next token" in shown
    assert "\x1b" not in shown, "no colours in a pipe"
    if task != "series":
        assert "attention of the last position" in shown


def test_the_terminal_has_the_probabilities_of_the_page(domains: Path) -> None:
    tfm = Tfm(domains)
    data = data_of(tfm("view", "text", "-p", "the").out)
    shown = tfm("view", "text", "-p", "the", "--terminal").text
    best = data["lens"]["p"][-1][-1]
    last = shown.partition("the next token")[2].splitlines()[1:6]
    assert [float(re.findall(r"([\d.]+)%", line)[0]) for line in last] == pytest.approx(
        [100 * p for p in best], abs=0.06
    )


def test_control_characters_do_not_reach_a_terminal(domains: Path) -> None:
    hostile = b"a\x1b[31m\x07\r\xff"
    shown = Tfm(domains)("view", "byte", "-p", "-", "--terminal", stdin=hostile).text
    assert "\x1b" not in shown and "\\x1b" in shown and "\x07" not in shown
