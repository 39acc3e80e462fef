"""Where the values of options come from. In order of precedence: flags > TFM_<FLAG> variables >
--config FILE > the user's config file > defaults."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..core.config import ModelConfig, SampleConfig, TrainConfig
from ..core.errors import ConfigError, UsageError, nearest

SECTIONS = ("model", "train", "sample", "task")  # the prefixes of --set, the tables of a file


def user_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "tfm" / "config.toml"


def read_settings(file: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """(settings, the file that each comes from): `file` overrides the user's config file."""
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for path, required in ((user_file(), False), (Path(file) if file else None, True)):
        if path is None or (not required and not path.exists()):
            continue
        for key, value in _toml(path).items():
            if key in SECTIONS:
                if not isinstance(value, Mapping):
                    hint = "; choose the task by --task or TFM_TASK" if key == "task" else ""
                    raise ConfigError(f"{path}: [{key}] must be a table{hint}")
                settings[key] = {**settings.get(key, {}), **value}
                origins.update({f"{key}.{name}": str(path) for name in value})
            else:
                settings[key] = value
                origins[key.replace("-", "_")] = str(path)
    return settings, origins


def _toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not TOML ({error})") from error


def check_settings(ctx: click.Context) -> None:
    """Raises ConfigError for a config-file key that is no option of any command or task."""
    import importlib

    from ..core.plugins import find, names
    from .main import COMMANDS

    keys = {key.replace("-", "_") for key in ctx.meta["tfm.settings"]} - set(SECTIONS)
    if not keys - {param.name for param in ctx.command.params}:
        return
    known: set[str] = set()
    for name in COMMANDS:
        command: click.Command = importlib.import_module(f"tfm.cli.{name}").command
        known |= {param.name for param in command.params if param.name}
    for name in names("tasks"):
        known |= {f.name for f in fields(find("tasks", name).Options)}
    for key in sorted(keys - known):
        where = ctx.meta["tfm.origins"][key]
        raise ConfigError(f"{where}: unknown setting {key}; {nearest(key, known)}")


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
