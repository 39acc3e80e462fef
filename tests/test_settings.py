"""Rules for all commands: flags read TFM_<NAME>, `--json` exists, a name has one meaning."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import Tfm, Trained

from tfm.cli.main import COMMANDS
from tfm.cli.options import task_flags
from tfm.core.plugins import find, names

OWN = {
    "tokenize --tokenizer",
    "detokenize --tokenizer",
    "score --tokens",
    *(f"{verb} --task" for verb in ("eval", "score", "compare", "sample", "view", "probe")),
}  # these flags mean something else in that command only
WITHOUT_JSON = {"completion"}  # it prints a script


def options() -> Iterator[tuple[str, click.Option]]:
    for name in COMMANDS:
        command: click.Command = importlib.import_module(f"tfm.cli.{name}").command
        yield from ((name, p) for p in command.params if isinstance(p, click.Option))
    for task in names("tasks"):
        for kind in (find("tasks", task).Options, find("tasks", task).SampleOptions):
            yield from ((task, flag) for flag in task_flags(task, kind))


def test_every_flag_reads_the_variable_of_its_name() -> None:
    for name, param in options():
        flag = max(param.opts, key=len)
        if f"{name} {flag}" in OWN:
            assert param.envvar is None
        else:
            assert param.envvar == f"TFM_{flag[2:].replace('-', '_').upper()}", f"{name} {flag}"


def test_a_variable_and_a_setting_mean_the_same_to_every_verb() -> None:
    """Otherwise a setting that is valid for one command would be an error for another."""
    kinds: dict[str, dict[object, str]] = {}
    for name, param in options():
        if f"{name} {param.opts[-1]}" not in OWN and name != "bench":
            multiple = param.multiple, param.is_flag
            kinds.setdefault(str(param.name), {})[multiple] = name
    assert not {name: found for name, found in kinds.items() if len(found) > 1}


def test_every_verb_that_tells_has_json(tfm: Tfm, trained: Trained) -> None:
    having = {name for name, param in options() if param.name == "as_json"}
    assert set(COMMANDS) - having == WITHOUT_JSON
    variables = {"TFM_JSON": "1", "TFM_RUNS": str(trained.path.parent), "TFM_TOKENS": "10k"}
    for verb in ("runs", "info", "tasks", "config", "tokenize", "score"):
        (line,) = tfm(verb, env=variables, stdin=b"one line\n").text.splitlines()
        record = json.loads(line)
        assert isinstance(record, dict) and record["schema"] == 1, verb


def test_config_shows_what_score_and_eval_are_told(tfm: Tfm) -> None:
    (tfm.folder / "my.toml").write_text("stride = 8\n")
    variables = {"TFM_TSV": "1", "TFM_CONFIG": "my.toml"}
    found = tfm("config", "--json", env=variables).json()["settings"]
    settings = {s["name"]: (s["value"], s["origin"]) for s in found}
    assert settings["stride"] == (8, "my.toml")
    assert settings["tsv"] == (True, "TFM_TSV")
    assert settings["task"] == (None, "default")
    assert "names" not in settings and "run" in settings


# -- config files --------------------------------------------------------------------------------


def test_every_name_that_config_prints_is_one_that_a_file_takes(tfm: Tfm) -> None:
    """`tfm config` shows the file as the origin of each: none is ignored, none is unknown."""
    printed = tfm("config", "--json").json()["settings"]
    lines: dict[str, list[str]] = {"": []}
    params: dict[str | None, click.Option] = {}
    for verb, option in options():
        if verb in ("train", "sample", "eval", "score"):
            params.setdefault(option.name, option)
    for setting in printed:
        name, value = setting["name"], setting["value"]
        section, dot, field = name.rpartition(".")
        if not dot:
            value = example(params["run_name" if name == "run" else name.replace("-", "_")])
        lines.setdefault(section, []).append(f"{field if dot else name} = {json.dumps(value)}")
    exclusive = {"steps", "tokens"}  # with budget
    text = "\n".join(line for line in lines.pop("") if line.split()[0] not in exclusive)
    for section, fields in lines.items():
        text += f"\n[{section}]\n" + "\n".join(fields)
    (tfm.folder / "all.toml").write_text(text)
    found = tfm("config", "--config", "all.toml", "--json").json()["settings"]
    origins = {s["name"]: s["origin"] for s in found if s["name"] not in exclusive}
    assert {origin for origin in origins.values()} == {"all.toml"}, origins


def example(param: click.Option) -> object:
    """A value that the option takes."""
    if param.is_flag:
        return True
    if param.multiple:
        return ["x"]
    if isinstance(param.type, click.Choice):
        return list(param.type.choices)[0]
    if isinstance(param.type, (click.types.IntParamType, click.IntRange)):
        return 3
    if isinstance(param.type, (click.types.FloatParamType, click.FloatRange)):
        return 0.5
    return 10 if param.type.name in ("duration", "count") else "x"


@pytest.mark.parametrize(
    "text, says",
    [
        ("seed = 1.5", "line 1: seed must be a whole number, got 1.5"),
        ("# a\n\nseed = true", "line 3: seed must be a whole number, got True"),
        ("seed = '1'", "line 1: seed must be a whole number, got '1'"),
        ("seed = -1", "'--seed': -1 is not in the range x>=0 (F, line 1)"),
        ("quiet = 'no'", "line 1: quiet must be true or false, got 'no'"),
        ("data = 3", "line 1: data must be text, got 3"),
        ("data = ['a', 3]", "line 1: data must be text, got ['a', 3]"),
        ("holdout = '0.1'", "line 1: holdout must be a number, got '0.1'"),
        ("column = 7", "line 1: column must be text, got 7"),
        ("budget = [1]", "line 1: budget must be a number or text"),
        ("budget = 'soon'", "'--budget': 'soon': must be a time such as 90s, 2m or 1h (F, line 1)"),
        ("save-every = 0", "'--save-every': 0: must be a positive whole number"),
        ("seed = 1\nsede = 2", "line 2: unknown setting sede; did you mean seed"),
        ("save_evry = 2", "line 1: unknown setting save-evry; did you mean save-every?"),
        ("lr = 0.1", "line 1: unknown setting lr; it is a field of the table [train]"),
        ("[train]\nlr = 'high'", "--set train.lr: must be a number, got 'high' (F, line 2)"),
        ("train.lr = 'high'", "--set train.lr: must be a number, got 'high' (F, line 1)"),
        (
            "[model]\n\nlayerz = 2",
            "--set model.layerz: no such field; did you mean layers or encoder_layers? (F, li",
        ),
        ("size = 'big'", "known: base, large, nano, small, tiny (F, line 1)"),
        ("levels = 3.5", "line 1: levels must be a whole number, got 3.5"),
        ("[task]\nlevels = 3.5", "--set task.levels: must be a whole number, got 3.5 (F, line 2)"),
        ("labels = 'both'", "'--labels': 'both' is not one of 'auto', 'first', 'last', 'none' (F"),
        ("a = 1\nb = = 2", "not TOML (Invalid value (at line 2, column 5))"),
        ("[sample", "not TOML"),
        ("model = 3", "[model] must be a table"),
    ],
)
def test_an_error_in_a_file_names_file_and_line(tfm: Tfm, text: str, says: str) -> None:
    (tfm.folder / "c.toml").write_text(text)
    said = tfm.error("train", "--task", "image", "--steps", 1, "--config", "c.toml")
    assert says.replace("F", "c.toml") in said and "c.toml" in said


def test_an_error_in_a_variable_names_it(tfm: Tfm) -> None:
    for name, value in (("TFM_SIZE", "big"), ("TFM_SEED", "1.5"), ("TFM_DEVICE", "abacus")):
        done = tfm("train", "--task", "byte", "--steps", 1, env={name: value}, code=2)
        assert f"(set by {name})" in done.err
    assert "(set by" not in tfm.error("train", "--size", "big")


def test_the_home_folder_is_meant_by_a_tilde(tfm: Tfm, home: Path, text: Path) -> None:
    (home / "notes.txt").write_bytes(text.read_bytes())
    (home / "c.toml").write_text('data = "~/notes.txt"\nruns = "~/kept"\nsteps = 1\nsize = "nano"')
    path = tfm("train", "--config=~/c.toml", "-q").text.strip()
    assert path.startswith(str(home / "kept"))
    listed = tfm("runs", "--json", env={"TFM_RUNS": "~/kept"}).text
    assert Path(path).name in listed
    args = ("train", "--data=~/notes.txt", "--init", Path(path).name, "--runs=~/kept")
    tfm(*args, "--steps", 1, "-q", "--run=~/kept/second")
    assert (home / "kept" / "second" / "config.json").exists()


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off", "FALSE"])
def test_debug_can_be_off(tfm: Tfm, value: str) -> None:
    assert "Traceback" not in tfm("train", "--size", "big", env={"TFM_DEBUG": value}, code=2).err
    command = Tfm.command("train", "--size", "big")
    on = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TFM_DEBUG": "1"}
    )
    assert on.returncode == 2 and "Traceback" in on.stderr


def test_architectures_with_learned_positions_fit_pictures_once_all_is_set(tfm: Tfm) -> None:
    image = ("train", "--task", "image", "--steps", 1, "--size", "nano", "-q")
    for arch in ("gpt2", "post-ln"):
        assert "model.positions: must be rope or none" in tfm.error(*image, "--arch", arch)
        tfm(*image, "--arch", arch, "--set", "model.positions=rope")
