"""Where the values of options come from. In order of precedence: flags > TFM_<FLAG> variables >
--config FILE > the user's config file > defaults."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..core.config import ModelConfig, SampleConfig, TrainConfig
from ..core.errors import ConfigError, UsageError, nearest
from .folders import config_file

SECTIONS = ("model", "train", "sample", "task")  # the prefixes of --set, the tables of a file


# names of parameters that differ from those of their flags, which files and `tfm config` use
PARAMETERS = {"run": "run_name", "task_name": "task"}


def parameter(key: str) -> str:
    """The name of the parameter that a key of a config file sets."""
    name = key.replace("-", "_")
    return PARAMETERS.get(name, name)


def read_settings(file: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """(settings, the file that each comes from): `file` overrides the user's config file."""
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    given = Path(file).expanduser() if file else None
    for path, required in ((config_file(), False), (given, True)):
        if path is None or (not required and not os.path.exists(path)):
            continue
        for key, value in _toml(path).items():
            if key == "task" and isinstance(value, str):  # --task, not the table of its options
                settings["task_name"], origins["task"] = value, str(path)
            elif key in SECTIONS:
                if not isinstance(value, Mapping):
                    raise ConfigError(f"{line_of(str(path), key)}: [{key}] must be a table")
                settings[key] = {**settings.get(key, {}), **value}
                origins.update({f"{key}.{name}": str(path) for name in value})
            else:
                settings[key] = value
                origins[parameter(key)] = str(path)
    return settings, origins


def line_of(path: str, key: str) -> str:
    """`path, line N` of a key (`seed`, `model.layers`) in a TOML file; `path` if it has none."""
    section, _, field = key.rpartition(".")
    names = {key, field} if section else {key, key.replace("_", "-"), key.removesuffix("_name")}
    table = ""
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("["):
            table = text.partition("]")[0].strip('[] "')
            continue
        name = text.partition("=")[0].strip().replace('"', "")
        if name in names and table == ("" if name == key else section):
            return f"{path}, line {number}"
    return path


def typed(param: click.Parameter, value: object, key: str, path: str) -> object:
    """A value of a config file, checked against the type of its option: TOML has types, and 1.5 is
    no seed. ConfigError names file and line."""
    kind, number = param.type, isinstance(value, (int, float)) and not isinstance(value, bool)
    whole = number and isinstance(value, int)
    if isinstance(param, click.Option) and param.multiple:
        value = [value] if isinstance(value, str) else value
        ok, must = isinstance(value, list) and all(isinstance(v, str) for v in value), "text"
    elif isinstance(param, click.Option) and param.is_flag:
        ok, must = isinstance(value, bool), "true or false"
    elif isinstance(kind, (click.types.IntParamType, click.IntRange)):
        ok, must = whole, "a whole number"
    elif isinstance(kind, (click.types.FloatParamType, click.FloatRange)):
        ok, must = number, "a number"
    elif kind.name in ("duration", "count"):
        ok, must = number or isinstance(value, str), "a number or text such as 90s or 10k"
    else:
        ok, must = isinstance(value, str), "text"
    if not ok:
        raise ConfigError(f"{line_of(path, key)}: {key} must be {must}, got {value!r}")
    return value


FLAG = re.compile(r"(?:Invalid value for '--|--set |--)([a-z][a-z0-9_.-]*)")


@contextmanager
def located(ctx: click.Context) -> Iterator[None]:
    """Adds to errors about an option the file and line or the variable that set it."""
    try:
        yield
    except click.BadParameter as error:
        message = error.format_message().rstrip(".")
        if _with_origin(ctx, message) == message:
            raise
        raise ConfigError(_with_origin(ctx, message)) from error
    except UsageError as error:
        error.args = (_with_origin(ctx, str(error)),)
        raise


def _with_origin(ctx: click.Context, message: str) -> str:
    found = FLAG.match(message)
    if not found:
        return message
    name = parameter(found[1].rstrip("."))
    path = ctx.meta["tfm.origins"].get(name)
    if path is not None and ("." in name or origin(ctx, name) == path):
        return f"{message} ({line_of(path, name)})"
    source = origin(ctx, name)
    return f"{message} (set by {source})" if source.startswith("TFM_") else message


def _toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path}: not UTF-8 text at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--config {path}: not TOML ({error})") from error


def check_settings(ctx: click.Context) -> None:
    """Raises ConfigError for a config-file key that is no option of any command or task."""
    import importlib

    from ..core.plugins import find, names
    from .main import COMMANDS

    keys = {parameter(key) for key in ctx.meta["tfm.settings"]} - set(SECTIONS)
    if not keys - {param.name for param in ctx.command.params}:
        return
    known: set[str] = set()
    for name in COMMANDS:
        command: click.Command = importlib.import_module(f"tfm.cli.{name}").command
        options = (param for param in command.params if isinstance(param, click.Option))
        known |= {param.name for param in options if param.name}
    for name in names("tasks"):
        known |= {f.name for f in fields(find("tasks", name).Options)}
    fields_of = {"model": ModelConfig, "train": TrainConfig, "sample": SampleConfig}
    for key in sorted(keys - known):
        where = line_of(ctx.meta["tfm.origins"][key], key)
        inside = [s for s, kind in fields_of.items() if key in {f.name for f in fields(kind)}]
        similar = nearest(key, {name.replace("_", "-") for name in known - {"config", "debug"}})
        hint = f"it is a field of the table [{inside[0]}]" if inside else similar
        raise ConfigError(f"{where}: unknown setting {key.replace('_', '-')}; {hint}")


def sets(ctx: click.Context, assignments: tuple[str, ...]) -> dict[str, dict[str, object]]:
    """{section: {field: value}} from config files, overridden by `--set section.field=value`."""
    out: dict[str, dict[str, object]] = {
        section: dict(ctx.meta["tfm.settings"].get(section, {})) for section in SECTIONS
    }
    for text in assignments:
        name, equals, value = text.partition("=")
        section, dot, field = name.partition(".")
        if not equals or not dot:
            raise ConfigError(f"--set {text}: must be section.field=value, such as model.layers=6")
        if section not in SECTIONS:
            raise ConfigError(f"--set {text}: no such section; {nearest(section, SECTIONS)}")
        out[section][field] = value
    for section, kind in (("model", ModelConfig), ("train", TrainConfig), ("sample", SampleConfig)):
        known = {f.name for f in fields(kind)}
        for name in out[section]:
            if name not in known:
                raise ConfigError(f"--set {section}.{name}: no such field; {nearest(name, known)}")
    return out


def one_of(ctx: click.Context, names: tuple[str, ...]) -> str | None:
    """The name of the one set option among mutually exclusive ones: flags win over the
    environment, that over files. None if no option is set; UsageError if one source sets two."""
    order = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP)
    for source in order:
        set_here = [n for n in names if ctx.get_parameter_source(n) is source and ctx.params[n]]
        if len(set_here) > 1:
            raise UsageError(f"--{set_here[0]} and --{set_here[1]} exclude each other; use one")
        if set_here:
            return set_here[0]
    return None


def origin(ctx: click.Context, name: str) -> str:
    """The source of an option's value: "flag", "TFM_X", a file's path or "default"."""
    source = ctx.get_parameter_source(name)
    if source is ParameterSource.COMMANDLINE:
        return "flag"
    if source is ParameterSource.ENVIRONMENT:
        return f"TFM_{name.upper()}"
    if source is ParameterSource.DEFAULT_MAP:
        return str(ctx.meta["tfm.origins"].get(name, "config"))
    return "default"
