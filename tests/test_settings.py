"""Rules for all commands: flags read TFM_<NAME>, `--json` exists, a name has one meaning."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator

import click
from conftest import Tfm, Trained

from tfm.cli.main import COMMANDS
from tfm.cli.options import task_flags
from tfm.core.plugins import find, names

OWN = {
    "tokenize --tokenizer",
    "detokenize --tokenizer",
    "score --tokens",
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
