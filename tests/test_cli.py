"""The contract of the command line: stdout and stderr, output formats, names of settings."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import Tfm, Trained
from helpers import saved_weights

from tfm.cli.main import COMMANDS

SCORES = {
    *("schema", "task", "run", "step", "split", "unit", "units", "tokens", "nll", "floor"),
    *("bits_per_byte", "tokens_per_second", "protocol"),
}
TEXT_SCORES = {"bits_per_char", "nats_per_char", "perplexity_per_token", "perplexity_per_word"}


def small(text: Path, *more: object) -> tuple[object, ...]:
    """The arguments of a short training."""
    data = ("--data", text, "--tokenizer", "byte", "--task", "text")
    return ("train", *data, "--size", "nano", "--context", 16, "--steps", 2, *more)


# -- train ---------------------------------------------------------------------------------------


def test_train_prints_the_path_of_the_run_and_nothing_else(tfm: Tfm, text: Path) -> None:
    told = tfm(*small(text))
    (path,) = told.text.splitlines()
    assert (tfm.folder / path / "config.json").exists() and path.startswith("runs/")
    assert path.endswith("-text") and "step 2/2" in told.err and "\r" not in told.err
    silent = tfm(*small(text, "-q", "--run", "mine"))
    assert (silent.text, silent.err) == ("mine\n", "")


@pytest.fixture(scope="module")
def twins(text: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Trained]:
    """Two runs by the same command: `runs/zebra`, then `runs/ant`."""
    tfm = Tfm(tmp_path_factory.mktemp("twins"))
    names = [f"runs/{name}" for name in ("zebra", "ant")]
    said = [tfm(*small(text, "-q", "--json", "--run", name)).json() for name in names]
    return [Trained(tfm.folder / name, s) for name, s in zip(names, said, strict=True)]


def test_two_equal_commands_give_equal_runs(tfm: Tfm, text: Path, twins: list[Trained]) -> None:
    assert saved_weights(twins[0].path, 2) == saved_weights(twins[1].path, 2)
    one, two = (
        {k: v for k, v in t.scores.items() if k not in ("run", "tokens_per_second")} for t in twins
    )
    assert one == two
    tfm(*small(text, "-q", "--run", "other", "--seed", 4))
    assert saved_weights(tfm.folder / "other", 2) != saved_weights(twins[0].path, 2)


def test_a_budget_and_steps_exclude_each_other(tfm: Tfm, text: Path) -> None:
    error = tfm.error(*small(text), "--budget", "9s")
    assert "--budget and --steps exclude each other" in error


def test_steps_by_flag_win_over_a_budget_by_variable(tfm: Tfm, text: Path) -> None:
    scores = tfm(*small(text, "-q", "--json"), env={"TFM_BUDGET": "1h"}).json()
    assert scores["step"] == 2


def test_variables_set_flags(tfm: Tfm, text: Path) -> None:
    variables = {"TFM_RUNS": "elsewhere", "TFM_SET": "model.layers=1", "TFM_STEPS": "1"}
    arguments = ("train", "--data", text, "--task", "text", "--size", "nano", "-q")
    path = tfm.folder / tfm(*arguments, env=variables).text.strip()
    assert path.parent.name == "elsewhere"
    config = json.loads((path / "config.json").read_text())
    assert config["model"]["layers"] == 1 and config["train"]["steps"] == 1
    assert config["origins"]["steps"] == "TFM_STEPS" and config["origins"]["size"] == "flag"


# -- eval ----------------------------------------------------------------------------------------


def test_eval_says_what_train_said(tfm: Tfm, trained: Trained) -> None:
    scores = tfm("eval", trained.path, "--json").json()
    assert set(scores) == SCORES | TEXT_SCORES == set(trained.scores)
    changes = {"run", "tokens_per_second"}
    for name in set(scores) - changes:
        assert scores[name] == trained.scores[name], name
    assert scores["schema"] == 1 and scores["protocol"] == "blockwise"
    assert scores["step"] == 20 and scores["split"] == "valid"
    assert set(scores["floor"]) == {"gzip", "bz2", "xz", "ngram"}


def test_eval_slides_where_asked_to_and_says_so(tfm: Tfm, trained: Trained) -> None:
    sliding = tfm("eval", trained.path, "--stride", 16, "--json").json()
    assert sliding["protocol"] == "sliding-16"
    assert sliding["tokens"] == trained.scores["tokens"], "each token once, all the same"
    assert sliding["nll"] != trained.scores["nll"]
    assert "--stride" in tfm.error("eval", trained.path, "--stride", 100_000)


def test_eval_of_other_data_prints_a_table(tfm: Tfm, trained: Trained) -> None:
    (tfm.folder / "new.txt").write_text("the quick brown fox\n" * 20)
    told = tfm("eval", trained.path, "--data", "new.txt")
    assert "bits per byte" in told.text and "units" in told.text and "400" in told.text
    assert "gzip" not in told.text, "floors are of what was held out"


# -- sample --------------------------------------------------------------------------------------


@pytest.fixture
def sample(tfm: Tfm, trained: Trained) -> Any:
    """`tfm sample` of the trained run."""

    def call(*args: object, **settings: Any) -> Any:
        return tfm("sample", trained.path, "--length", 24, *args, **settings)

    return call


def test_a_prompt_is_gone_on_from_verbatim(sample: Any, tfm: Tfm) -> None:
    streamed = sample("-p", "the quick\n")
    assert streamed.out and streamed.err == ""
    assert sample("-p", "-", stdin=b"the quick\n").out == streamed.out
    (tfm.folder / "prompt.txt").write_text("the quick\n")
    assert sample("-p", "@prompt.txt", "--no-stream").out == streamed.out
    record = sample("-p", "the quick\n", "--json").json()
    assert record["text"].encode() == streamed.out


def test_the_end_of_input_is_no_prompt(sample: Any) -> None:
    record = sample("--json", stdin=b"").json()
    assert record["prompt"] is None
    assert sample().text == record["text"] != ""


def test_draws_repeat_and_the_seed_changes_them(sample: Any) -> None:
    one = sample("-p", "a", "--seed", 1, "-n", 3)
    assert len(set(one.text.split("\n")[:-1])) == 3, "each draw its own"
    assert one.text.split("\n")[0] == sample("-p", "a", "--seed", 1, "-0").text[:-1].replace(
        "\n", "\\n"
    ), "whatever is drawn beside it"
    assert one.out != sample("-p", "a", "--seed", 2, "-n", 3).out
    greedy = sample("-p", "a", "--greedy", "--seed", 1)
    assert greedy.out == sample("-p", "a", "--greedy", "--seed", 2).out


PROMPTS = ["the quick", "", "brown \\n fox", "été", "the quick", "dog\r"]
LINES = "".join(line + "\n" for line in PROMPTS).encode()


def test_a_line_in_is_a_record_out_in_order(sample: Any) -> None:
    records = sample("--json", stdin=LINES).lines()
    assert [r["prompt"] for r in records] == [line.rstrip("\r") for line in PROMPTS]
    assert records[0]["tokens"] == records[4]["tokens"], "equal prompts, equal draws"
    assert set(records[0]) == {
        *("id", "prompt", "text", "tokens", "logprobs", "finish_reason", "seed")
    }
    assert all(len(r["tokens"]) == len(r["logprobs"]) == 24 for r in records)
    assert all(r["finish_reason"] == "length" and r["seed"] == 0 for r in records)

    texts = [r["text"] for r in records]
    escaped = [text.replace("\r", "\\r").replace("\n", "\\n") for text in texts]
    assert sample(stdin=LINES).text == "".join(line + "\n" for line in escaped)
    assert sample("--raw", stdin=LINES).text == "".join(text + "\n" for text in texts)


def test_nul_ends_prompts_and_records(sample: Any) -> None:
    prompts = ["two\nlines", "the quick"]
    stdin = "\0".join(prompts).encode()
    records = sample("-0", "--json", stdin=stdin).lines()
    assert [r["prompt"] for r in records] == prompts
    assert sample("-0", stdin=stdin).text == "".join(r["text"] + "\0" for r in records)


def test_records_do_not_depend_on_their_neighbours(sample: Any) -> None:
    lines = LINES.splitlines(keepends=True)
    whole = sample(stdin=LINES).out
    assert sample(stdin=b"".join(lines[:3])).out + sample(stdin=b"".join(lines[3:])).out == whole


def test_json_lines_in_bring_their_ids(sample: Any) -> None:
    prompts = [{"id": "a", "prompt": "fox"}, {"id": 7, "prompt": "fox"}, {"prompt": "fox"}]
    stdin = "".join(json.dumps(one) + "\n" for one in prompts).encode()
    records = sample("--json-in", "--json", "-n", 2, stdin=stdin).lines()
    assert [r["id"] for r in records] == ["a", "a", 7, 7, None, None]
    assert len({str(r["tokens"]) for r in records}) == 6, "draws hang on the id"
    assert "line 1" in sample("--json-in", stdin=b'{"no": 1}\n', code=2).err


def test_a_stop_text_ends_the_draw_and_is_left_out(sample: Any) -> None:
    text = sample("-p", "a", "--greedy").text
    stop = text[8:10]
    record = sample("-p", "a", "--greedy", "--stop", stop, "--json").json()
    assert record["text"] == text[: text.index(stop)]
    assert record["finish_reason"] == "stop" and len(record["tokens"]) < 24


def test_a_prompt_longer_than_the_context_is_cut_on_the_left(sample: Any) -> None:
    end = "brown fox jumps over " * 9
    cut = sample("--greedy", stdin=f"{'z' * 200}{end}\n{end}\n".encode())
    assert "the context of 64" in cut.err
    one, other = cut.text.split("\n")[:-1]
    assert one == other, "only the end counts"
    strict = sample("-p", end, "--strict", code=2)
    assert strict.err.startswith("Error: the prompt has") and not strict.out


def test_out_is_a_file_or_a_pipe(sample: Any, tfm: Tfm) -> None:
    assert sample("-p", "a", "--out", "new.txt").out == b""
    wanted = (tfm.folder / "new.txt").read_bytes()
    assert wanted
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    pipe, read = tfm.folder / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    sample("-p", "a", "--out", "pipe")
    reader.join(10)
    assert read == [wanted] and pipe.is_fifo(), "written to, not replaced"


# -- settings ------------------------------------------------------------------------------------


def test_flags_before_variables_before_files_before_defaults(tfm: Tfm, home: Path) -> None:
    user = Path(os.environ["XDG_CONFIG_HOME"]) / "tfm/config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('size = "base"\narch = "gpt2"\nseed = 4\n[model]\nlayers = 7\nheads = 2\n')
    mine = tfm.folder / "mine.toml"
    mine.write_text('size = "small"\narch = "llama"\nsave-every = 9\n[model]\nlayers = 5\n')
    variables = {"TFM_SIZE": "tiny", "TFM_TOP_K": "3"}
    try:
        found = tfm("config", "--json", "--config", mine, env=variables).json()
        nearest = tfm(
            *("train", "--config", mine, "--size", "nano", "--task", "toy-that-is-not"),
            env=variables,
            code=2,
        )
    finally:
        user.unlink()
    settings = {s["name"]: (s["value"], s["origin"]) for s in found["settings"]}
    assert found["files"] == [str(user)]
    assert settings["size"] == ("tiny", "TFM_SIZE")
    assert settings["top-k"] == (3, "TFM_TOP_K")
    assert settings["arch"] == ("llama", str(mine))
    assert settings["save-every"] == (9, str(mine))
    assert settings["seed"] == (4, str(user))
    assert settings["device"] == ("auto", "default")
    assert settings["model.layers"] == (5, str(mine))
    assert settings["model.heads"] == (2, str(user))
    assert settings["train.lr"][1] == "default"
    assert "no such task" in nearest.err


def test_a_setting_that_is_not_known_is_told_what_is_near(tfm: Tfm, text: Path) -> None:
    wrong = tfm.folder / "wrong.toml"
    wrong.write_text('bugdet = "9s"\n')
    for command in ("train", "config", "runs"):
        error = tfm.error(command, "--config", wrong)
        assert "unknown setting bugdet" in error and "budget" in error and str(wrong) in error
    for section, field, near in (
        ("model", "layer", "layers"),
        ("train", "learning_rate", "lr"),
        ("sample", "temprature", "temperature"),
        ("task", "eech", "each"),
        ("modle", "layers", "model"),
    ):
        error = tfm.error(*small(text), "--set", f"{section}.{field}=1")
        assert near in error and section in error
    assert not (tfm.folder / "runs").exists()


# -- the small commands --------------------------------------------------------------------------


def test_runs_lists_what_there_is(tfm: Tfm, trained: Trained) -> None:
    assert "no runs" in tfm("runs").err
    listed = tfm("runs", "--runs", trained.path.parent, "--json").json()
    (run,) = listed["runs"]
    assert run["run"] == str(trained.path) and run["state"] == "done"
    assert (run["step"], run["steps"], run["unit"]) == (20, 20, "byte")
    assert run["score"] == trained.scores["bits_per_byte"]
    assert "20/20" in tfm("runs", env={"TFM_RUNS": str(trained.path.parent)}).text


def test_info_says_how_a_run_was_made(tfm: Tfm, trained: Trained, text: Path) -> None:
    said = tfm("info", trained.path, "--json").json()
    assert said["data"]["paths"] == [str(text)] and said["checkpoints"] == [20]
    assert said["status"]["state"] == "done"
    assert said["argv"][:3] == ["train", "--task", "text"]
    table = tfm("info", trained.path).text
    assert "char" in table and "20 of 20" in table


def test_the_newest_run_is_meant_and_names_are_enough(twins: list[Trained]) -> None:
    tfm = Tfm(twins[0].path.parent.parent)
    assert tfm("info", "--json").json()["run"] == "runs/ant"
    assert tfm("info", "zebra", "--json").json()["run"] == "runs/zebra"
    assert [r["run"] for r in tfm("runs", "--json").json()["runs"]] == ["runs/zebra", "runs/ant"]


def test_tasks_lists_tasks_and_their_options(tfm: Tfm) -> None:
    tasks = {task["task"]: task for task in tfm("tasks", "--json").json()["tasks"]}
    assert {"text", "byte"} <= set(tasks)
    each = next(o for o in tasks["text"]["options"] if o["name"] == "each")
    assert each["default"] == "stream" and "line" in each["choices"]
    assert "--each" in tfm("tasks", "text").text


EACH_IN_A_FORK = """
import os, sys
import numpy, tfm.cli.main as m

os._exit = lambda code: sys.exit(8 if "torch" in sys.modules else code)
for line in sys.stdin.read().splitlines():
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        sys.argv[1:] = line.split()
        m.main()
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), line)
"""


def test_what_needs_no_torch_does_not_load_it(tmp_path: Path) -> None:
    lines = ["--help", "--version", "runs", "config", "tasks", *(f"{c} -h" for c in COMMANDS)]
    done = subprocess.run(
        [sys.executable, "-c", EACH_IN_A_FORK],
        input="\n".join(lines),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [f"0 {line}" for line in lines]


def test_every_command_and_option_is_explained(tfm: Tfm) -> None:
    overview = tfm("--help").text
    for name, about in COMMANDS.items():
        assert f"  {name} " in overview and about.split()[0] in overview
        command: click.Command = importlib.import_module(f"tfm.cli.{name}").command
        assert command.help, name
        for param in command.params:
            if isinstance(param, click.Option):
                assert param.help, f"tfm {name} {param.opts[0]}: no help"


def test_nothing_is_a_question_for_help(tfm: Tfm) -> None:
    told = tfm(code=2)
    assert "Usage: " in told.err and not told.out
    assert "did you mean sample" in tfm.error("smaple")
