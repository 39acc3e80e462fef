"""`tfm data`: what it shows of each domain, what it counts, and each doubt planted and found."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm
from helpers import DOMAINS

from tfm.core.display import BACKGROUNDS, BOUNDARY
from tfm.core.runs.run import Run

posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")


def kinds(tfm: Tfm, *args: object, code: int = 0, stdin: bytes | None = None) -> list[str]:
    """The kinds of the warnings about some data, each with its split."""
    found = tfm("data", *args, "--json", "-n", 0, "-q", code=code, stdin=stdin).json()
    return [f"{warning['split']} {warning['kind']}" for warning in found["warnings"]]


# -- every domain ----------------------------------------------------------------------------------


def without_run(found: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the run; a picture is named after its file."""
    for item in found["items"]:
        item["id"] = str(item["id"]).rpartition("/")[2]
    return {key: found[key] for key in ("task", "unit", "vocab_size", "splits", "items")}


@pytest.mark.parametrize("task", DOMAINS)
def test_a_run_and_its_files_have_the_same_data(domains: Path, task: str) -> None:
    """Counts agree with what the run keeps, and with its files read anew."""
    tfm = Tfm(domains)
    found = tfm("data", task, "--json").json()
    run = Run(domains / task)
    kept = list(run.heldout("valid"))
    assert found["schema"] == 1 and found["run"] == task and found["task"] == task
    assert found["tokenizer"] == run.config["tokenizer"]["spec"]
    held = found["splits"]["valid"]
    units = run.task().units(kept)
    assert held["units"] == units[found["unit"]]
    assert held["tokens"] == sum(int((s.target_weight() > 0).sum()) for s in kept)
    assert found["splits"]["train"]["units"] > held["units"] or task in ("sort", "recall")
    options = [word for word in DOMAINS[task][0] if word not in ("--arch", "encoder-decoder")]
    assert without_run(tfm("data", "--task", task, *options, "--json").json()) == without_run(found)


@pytest.mark.parametrize("task", DOMAINS)
def test_every_domain_is_shown(domains: Path, task: str) -> None:
    shown = Tfm(domains)("data", task, "-n", 2)
    lines = shown.text.splitlines()
    assert lines[0].startswith(f"{task}: ")
    assert sum(line.startswith("train, ") for line in lines) == 2
    assert all(len(line) <= 100 for line in lines if not line.startswith("warning"))
    assert "warning" in lines[-1], "warnings come last"
    marks = {
        "image": "patches of 1 x 1 pixels",
        "series": "16 points of history, 4 of horizon",
        "audio": "0.04 s",
    }
    assert marks.get(task, BOUNDARY) in shown.text


def test_a_mix_shows_every_part_and_a_part_alone(domains: Path, tfm: Tfm) -> None:
    mix = ("--mix", f"text:{domains}/text.txt", "--mix", f"pairs:{domains}/pairs.tsv")
    tfm("train", *mix, "--size", "nano", "--steps", 1, "--run", "mix", "-q")
    whole, read = tfm("data", "mix", "--json").json(), tfm("data", *mix, "--json").json()
    assert whole["parts"] == read["parts"] and [*whole["parts"]] == ["text", "pairs"]
    text = tfm("data", "mix").text
    assert "text: train, tokens 0 to" in text and "pairs: train, item " in text
    part = tfm("data", "mix:pairs", "--json").json()
    assert part["splits"] == whole["parts"]["pairs"]["splits"]
    assert tfm("data", "mix", "--task", "pairs", "--json").json()["items"] == part["items"]


def test_without_data_it_is_that_of_the_task(tfm: Tfm) -> None:
    found = tfm("data", "--task", "image", "--json", "-n", 2)
    assert "no --data: using 1,797 handwritten digits" in found.err
    found = found.json()
    assert found["splits"]["train"]["items"] + found["splits"]["valid"]["items"] == 1797
    assert sum(found["splits"]["train"]["labels"].values()) == found["splits"]["train"]["items"]
    assert {item["label"] for item in found["items"]} <= set(map(str, range(10)))
    assert found["warnings"] == []


@pytest.mark.parametrize("task", ["series", "copy", "addition"])
def test_the_data_of_a_task_has_no_doubts(tfm: Tfm, task: str) -> None:
    assert "\nno warnings\n" in tfm("data", "--task", task, "--strict", "-n", 1).text


# -- which items -----------------------------------------------------------------------------------


def test_items_are_evenly_spaced_or_drawn_by_a_seed(domains: Path) -> None:
    tfm = Tfm(domains)

    def numbers(*args: object) -> list[int]:
        found = tfm("data", "pairs", "--json", *args).json()
        return [item["number"] for item in found["items"]]

    even = numbers()
    assert even == numbers() and len(even) == 3 and even == sorted(even)
    drawn = numbers("--seed", 1, "-n", 5)
    assert drawn == numbers("--seed", 1, "-n", 5) != numbers("--seed", 2, "-n", 5)
    assert len({*drawn}) == 5 and numbers("-n", 0) == []
    held = tfm("data", "pairs", "--json", "--split", "valid", "-n", 1000).json()
    assert len(held["items"]) == held["splits"]["valid"]["items"]
    kept = [sequence.ids.tolist() for sequence in Run(domains / "pairs").heldout("valid")]
    assert [item["ids"] for item in held["items"]] == kept


# -- doubts, each beside the same data without it --------------------------------------------------


def varied(size: int, seed: int) -> str:
    """Lines of words that hardly repeat."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(3000)]
    text = list[str]()
    while sum(map(len, text)) < size:
        text.append(" ".join(draw.choices(words, k=10)))
    return "\n".join(text) + "\n"


def running_text(root: Path, wrong: bool) -> tuple[object, ...]:
    train, held = varied(40_000, 1), varied(6000, 2)
    (root / "train.txt").write_text(train)
    (root / "held.txt").write_text(held + (train[5000:7000] if wrong else ""))
    return ("train.txt", "--valid", "held.txt", "--tokenizer", "bpe:400")


def lines(root: Path, wrong: bool, change: Callable[[str], str]) -> tuple[object, ...]:
    train, held = varied(20_000, 1).splitlines(), varied(3000, 2).splitlines()
    (root / "train.txt").write_text("\n".join(train))
    (root / "held.txt").write_text("\n".join([*held, *map(change, train[:3] if wrong else ())]))
    each = ("--task", "text", "--each", "line", "--tokenizer", "char")
    return ("train.txt", "--valid", "held.txt", *each, "--context", 500)


def pairs(root: Path, wrong: bool, row: str, count: int = 1) -> tuple[object, ...]:
    words = varied(4000, 3).split()
    rows = [f"{a} {b}\t{b} {a}" for a, b in zip(words[::2], words[1::2], strict=False)]
    (root / "pairs.tsv").write_text("\n".join([*dict.fromkeys(rows), *[row] * count * wrong]))
    return ("pairs.tsv", "--task", "pairs")


def pictures(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 16, (count, 6, 6), np.uint8)


def image(root: Path, train: Any, held: Any = None, **labels: Any) -> tuple[object, ...]:
    held = pictures(8, 1) if held is None else held
    np.savez(root / "train.npz", images=train, **labels)
    np.savez(root / "held.npz", images=held, **{name: [0] * len(held) for name in labels})
    return ("train.npz", "--valid", "held.npz", "--task", "image")


def series(
    root: Path, columns: dict[str, Any], times: list[int] | None = None
) -> tuple[object, ...]:
    size = len(next(iter(columns.values())))
    minutes = times or list(range(size))
    rows = [
        ",".join(
            [
                f"2024-01-{1 + m // 1440:02d} {m // 60 % 24:02d}:{m % 60:02d}",
                *(f"{values[n]:.4f}" for values in columns.values()),
            ]
        )
        for n, m in enumerate(minutes)
    ]
    (root / "s.csv").write_text("\n".join([",".join(["time", *columns]), *rows]) + "\n")
    return ("s.csv", "--history", 16, "--horizon", 8)


def walk(size: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=size).cumsum()


def shifted(wrong: bool) -> dict[str, Any]:
    long = walk(400, 1)
    return {"a": long[:300], "b": long[60:360] if wrong else walk(300, 2)}


def nearly(picture: Any) -> Any:
    changed = picture.copy()
    changed[0, 0] = (changed[0, 0] + 1) % 16
    return changed


TIMES = [*range(100), *range(103, 203)]
DOUBTS: dict[str, tuple[str, Callable[[Path, bool], tuple[object, ...]]]] = {
    "a passage of the training text": ("valid runs_in_training", running_text),
    "training lines": ("valid held_out_in_training", lambda r, w: lines(r, w, str)),
    "changed lines": ("valid nearly_in_training", lambda r, w: lines(r, w, lambda s: s + " end")),
    "unknown characters": ("valid unseen_tokens", lambda r, w: lines(r, w, lambda s: "жизнь " * 9)),
    "repeated pairs": (
        "train duplicates",
        lambda r, w: pairs(r, w, f"{'a long source ' * 3}\t{'a long target ' * 3}", 9),
    ),
    "a pair without a target": ("train empty", lambda r, w: pairs(r, w, "a source\t")),
    "equal pictures": (
        "train duplicates",
        lambda r, w: image(r, np.concatenate((p := pictures(30), p[:2] if w else p[:0]))),
    ),
    "training pictures": (
        "valid held_out_in_training",
        lambda r, w: image(r, p := pictures(30), p[3:5] if w else None),
    ),
    "changed pictures": (
        "valid nearly_in_training",
        lambda r, w: image(r, p := pictures(30), [*pictures(20, 1), *([nearly(p[7])] * w)]),
    ),
    "an empty picture": (
        "train constant",
        lambda r, w: image(r, [*pictures(30), *([np.zeros((6, 6), np.uint8)] * w)]),
    ),
    "one label": (
        "train constant_label",
        lambda r, w: (
            *image(r, pictures(30), labels=np.arange(30) % (1 if w else 3)),
            *("--labels", "last"),
        ),
    ),
    "a constant series": (
        "train constant",
        lambda r, w: series(r, {"a": walk(200, 1), "b": np.ones(200) if w else walk(200, 2)}),
    ),
    "equal series": (
        "train duplicates",
        lambda r, w: series(r, {"a": walk(200, 1), "b": walk(200, 1 if w else 2)}),
    ),
    "a shifted copy": ("valid runs_in_training", lambda r, w: series(r, shifted(w))),
    "uneven times": (
        "train refused",
        lambda r, w: series(r, {"a": walk(200, 1)}, TIMES if w else None),
    ),
    "gaps": (
        "train gaps",
        lambda r, w: (*series(r, {"a": walk(200, 1)}, TIMES if w else None), "--resample"),
    ),
    "times that come twice": (
        "train repeated_times",
        lambda r, w: (
            *series(r, {"a": walk(200, 1)}, [*range(100), *range(99, 199)] if w else None),
            "--resample",
        ),
    ),
    "long pairs": (
        "train too_long",
        lambda r, w: (*pairs(r, False, ""), "--context", 12 if w else 200),
    ),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_a_doubt_is_found_and_only_where_it_is(tfm: Tfm, name: str) -> None:
    kind, write = DOUBTS[name]
    assert kinds(tfm, *write(tfm.folder, False), "--strict") == []
    assert kind in kinds(tfm, *write(tfm.folder, True), "--strict", code=5)


def test_a_label_that_training_never_has(tfm: Tfm) -> None:
    """Its tokenizer knows the label, as the data itself names the parts."""
    root, labels = tfm.folder, np.arange(30) % 3
    for wrong in (False, True):
        held = np.array([0, 1, 2, 3 if wrong else 2])
        np.savez(root / "p.npz", x_train=pictures(30), y_train=labels,
                 x_test=pictures(4, 1), y_test=held)  # fmt: skip
        found = kinds(tfm, "p.npz", "--task", "image")
        assert ("test unseen_label" in found) is wrong, found


def test_a_warning_says_where_what_which_and_what_to_do(tfm: Tfm) -> None:
    args = lines(tfm.folder, True, str)
    shown = tfm("data", *args, "-n", 0, "--strict", code=5)
    (line,) = [line for line in shown.text.splitlines() if line.startswith("warning")]
    names = (tfm.folder / "train.txt").read_text().splitlines()[:3]
    assert line.startswith("warning: valid: 3 of ")
    assert all(f"“{name[:30]}" in line for name in names)
    assert line.endswith("; leave them out of one of the two, or their scores say nothing new")
    assert shown.err.endswith("Error: --strict: 1 warning\n")
    (record,) = tfm("data", *args, "-n", 0, "--json").json()["warnings"]
    assert {*record} == {
        *("kind", "split", "count", "share", "message", "advice", "items", "listed")
    }
    assert record["count"] == 3 and 0 < record["share"] < 1 and len(record["items"]) == 3


# -- sources and flags -----------------------------------------------------------------------------


def test_sources_are_those_of_train(tfm: Tfm, text: Path) -> None:
    data = text.read_bytes()
    (tfm.folder / "a.txt").write_bytes(data)
    (tfm.folder / "a.txt.gz").write_bytes(gzip.compress(data))
    (tfm.folder / "t.jsonl").write_text(
        "\n".join(json.dumps({"body": line, "x": 1}) for line in data.decode().splitlines())
    )
    byte = ("--task", "byte", "--json", "-n", 0)
    wanted = tfm("data", "a.txt", *byte).json()["splits"]
    for source in ("a.txt.gz", "*.txt", tfm.folder / "a.txt"):
        assert tfm("data", source, *byte).json()["splits"] == wanted
    assert tfm("data", "-", *byte, stdin=data).json()["splits"] == wanted
    assert tfm("data", "--data", "a.txt", *byte).json()["splits"] == wanted
    rows = tfm("data", "t.jsonl", "--column", "body", "--task", "text", "--json", "-n", 0).json()
    assert rows["read"]["column"] == "body"
    guessed = tfm("data", "a.txt", "-n", 0)
    assert "a.txt looks like --task text\n" in guessed.err
    assert "looks like" not in tfm("data", "a.txt", "-n", 0, "-q").err


@pytest.mark.parametrize(
    "args, says",
    [
        (("nothing.txt",), "nothing.txt: no such file, and no such run"),
        (("a.txt", "--task", "txt"), "did you mean text"),
        (("a.txt", "--tokenizer", "bep"), "--tokenizer bep"),
        (("a.txt", "--holdout", 2), "--holdout"),
        (("a.txt", "--valid", "no.txt"), "no.txt"),
        (("a.txt", "--split", "test"), "--split test: the data has train, valid"),
        (("a.txt", "--split", "all"), "--split"),
        (("a.txt", "-n", -1), "-n"),
        (("a.txt", "--seed", -1), "--seed"),
        (("a.txt", "--context", 0), "--context"),
        (("a.txt", "--each", "word"), "--each"),
        (("a.txt", "--column", "x"), "--column x"),
        (("a.txt", "--horizon", 3), "--horizon"),
        (("--mix", "text:a.txt", "a.txt"), "--data and --mix exclude each other"),
        (("run", "a.txt"), "run is a run, with data of its own"),
        (("run", "--holdout", 0.2), "--holdout and RUN exclude each other"),
        (("run", "--tokenizer", "byte"), "--tokenizer and RUN exclude each other"),
        (("run", "--each", "line"), "--each and RUN exclude each other"),
        (("run", "--task", "image"), "has one domain only"),
        (("run:image",), "has one domain only"),
        (("run", "--split", "test"), "--split test: the data has train, valid"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_wrong_use_is_one_line(domains: Path, args: tuple[object, ...], says: str) -> None:
    names = {"a.txt": "text.txt", "run": "text", "run:image": "text:image"}
    words = [names.get(str(word), str(word).replace("a.txt", "text.txt")) for word in args]
    error = Tfm(domains).error("data", *words)
    assert says.replace("run is", "text is") in error, error


def test_data_that_is_gone_has_changed_or_has_moved(domains: Path, tfm: Tfm) -> None:
    shutil.copytree(domains / "text", tfm.folder / "run")
    config = json.loads((tfm.folder / "run/config.json").read_text())
    assert "data" in tfm("data", "run", "--json").json()["source"] or config["data"]["paths"]
    shutil.copy(domains / "text.txt", tfm.folder / "t.txt")
    tfm("train", "--data", "t.txt", "--task", "byte", "--size", "nano", "--steps", 1, "--run", "r",
        "-q")  # fmt: skip
    wanted = tfm("data", "r", "--json").json()["splits"]
    (tfm.folder / "t.txt").rename(tfm.folder / "u.txt")
    error = tfm.error("data", "r")
    assert "is not there any more; name its new place with --data" in error
    assert tfm("data", "r", "--data", "u.txt", "--json").json()["splits"] == wanted
    (tfm.folder / "t.txt").write_text("other text " * 100)
    assert "has changed since" in tfm.error("data", "r")


def test_a_damaged_run_is_told(domains: Path, tfm: Tfm) -> None:
    shutil.copytree(domains / "byte", tfm.folder / "run")
    path = tfm.folder / "run/tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"{", b"[", 1))
    assert "tokenizer.json" in tfm.error("data", "run", code=3)


# -- streams and terminals -------------------------------------------------------------------------


def test_it_needs_no_torch(domains: Path) -> None:
    code = (
        "import sys\nfrom tfm.cli.main import cli\n"
        "cli.main(['data', *sys.argv[1:]], standalone_mode=False)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'matplotlib')))"
    )
    for args in (["text.txt", "--tokenizer", "char"], ["pairs"]):
        done = subprocess.run([sys.executable, "-c", code, *args], cwd=domains, capture_output=True)
        assert done.returncode == 0, done.stderr


@posix
def test_a_reader_that_left_is_no_error(domains: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = Tfm(domains).start("data", "pairs", stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-signal.SIGPIPE, b"")


@posix
def test_a_terminal_gets_colours_and_no_control_bytes(tfm: Tfm) -> None:
    import pty

    (tfm.folder / "x.txt").write_text("\x1b]0;title\x07\x1b[31m\x9b2J a b\n" * 200)
    shown = {}
    for name, more in (("colour", {}), ("plain", {"NO_COLOR": "1"}), ("dumb", {"TERM": "dumb"})):
        main, side = pty.openpty()
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "60", **more}
        args = ("data", "x.txt", "--task", "text", "--tokenizer", "char", "-n", 1, "-q")
        process = subprocess.Popen(
            tfm.command(*args), cwd=tfm.folder, env=env, stdout=side, stdin=subprocess.DEVNULL
        )
        os.close(side)
        found = b""
        try:
            while block := os.read(main, 4096):
                found += block
        except OSError:  # Linux, at the end of a terminal
            pass
        os.close(main)
        assert process.wait() == 0
        shown[name] = found.decode()
    assert all(background in shown["colour"] for background in BACKGROUNDS)
    plain = shown["colour"]
    for code in (*BACKGROUNDS, "\x1b[0m", "\x1b[1m", "\x1b[1;33m"):
        plain = plain.replace(code, "")
    for text in (plain, shown["plain"], shown["dumb"]):
        assert "\\x1b" in text and not {*text} & {*map(chr, range(9)), "\x1b", "\x07", "\x9b"}
    assert BOUNDARY not in shown["colour"] and BOUNDARY in shown["plain"]
