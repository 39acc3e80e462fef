"""The option types of the command line, commands that read config files, and shared options."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import click
from click.shell_completion import CompletionItem

from . import names
from .settings import SECTIONS, check_settings, located, parameter, read_settings, typed

if TYPE_CHECKING:
    from ..core.task import Task

F = TypeVar("F", bound=Callable[..., Any])


class Duration(click.ParamType[float]):
    """A duration such as 90, 90s, 2m or 1.5h, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, (int, float)):
            value = str(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|)", value.strip())
        if not match or float(match[1]) <= 0:
            self.fail(f"{value!r}: must be a time such as 90s, 2m or 1h")
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


class Real(click.FloatRange):
    """A finite number, within bounds if there are any: NaN lies within all of them for click."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r}: must be a finite number")
        return number

    def _describe_range(self) -> str:
        """For --help; click writes x<=None for a number without bounds."""
        return "" if self.min is self.max is None else super()._describe_range()


class Count(click.ParamType[int]):
    """A positive whole number such as 300, 10k, 2.5M or 1B."""

    name = "count"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMB]?)", str(value).strip())
        number = 0.0
        if match:
            number = float(match[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}[match[2]]
        if number < 1 or number % 1:
            self.fail(f"{value!r}: must be a positive whole number such as 300, 10k or 2M")
        return int(number)


def expanded(value: Any) -> Any:
    """A path, or several, with ~ as the home folder, also where no shell has replaced it."""
    if isinstance(value, tuple):
        return tuple(map(expanded, value))
    return os.path.expanduser(value) if isinstance(value, str) else value


class Option(click.Option):
    """An option that also reads TFM_<NAME>. In a path, ~ is the home folder."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.envvar is None and self.name:
            self.envvar = f"TFM_{self.name.upper()}"

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        value = super().type_cast_value(ctx, value)
        return expanded(value) if self.name in names.PATHS else value

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        found = names.complete_option(self.name, ctx, incomplete)
        return super().shell_complete(ctx, incomplete) if found is None else found


class VerbatimOption(Option):
    """A repeatable option that can contain spaces: its variable is one value, not several."""

    def value_from_envvar(self, ctx: click.Context) -> Any:
        value = self.resolve_envvar_value(ctx)
        return None if value is None else (value,)


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    return click.option(*names, cls=Option, **settings)


class Command(click.Command):
    """A command with `--quiet`, `--debug` and `--config` that reads unset options from config
    files. In subclasses, the options of the chosen task are flags too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            Option(
                ["--config"],
                type=click.Path(),
                metavar="FILE.toml",
                expose_value=False,
                help="Read settings from a file.",
            ),
            Option(["-q", "--quiet"], is_flag=True, help="Print only errors."),
            Option(["--debug"], is_flag=True, expose_value=False, help="Show tracebacks."),
        ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:
            return self._parse_for_completion(ctx, args)
        settings, origins = read_settings(peek(args, "config"))
        ctx.meta["tfm.settings"], ctx.meta["tfm.origins"] = settings, origins
        ctx.default_map = {parameter(k): v for k, v in settings.items() if k not in SECTIONS}
        self._add_task_options(ctx, args)
        check_settings(ctx)
        for param in self.params:
            if param.name in ctx.default_map:
                path = origins[param.name]
                key = param.name.removesuffix("_name")
                ctx.default_map[param.name] = typed(param, ctx.default_map[param.name], key, path)
        with located(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with located(ctx):
            return super().invoke(ctx)

    def _parse_for_completion(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Imports a task only if the line contains one of its options; reads no config file."""
        ctx.meta["tfm.args"] = list(args)
        known = {name for p in self.params for name in (*p.opts, *p.secondary_opts)}
        if any(a.startswith("--") and a.partition("=")[0] not in known for a in args):
            self._add_task_options(ctx, args)
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        self._add_task_options(ctx, ctx.meta.get("tfm.args", []))
        return super().shell_complete(ctx, incomplete)

    def task_options(self, ctx: click.Context, args: list[str]) -> tuple[str, type] | None:
        """(task name, dataclass of options) of the task whose options are flags of this command.
        None without a task, or with an unknown one: the command itself reports that error."""
        return None

    def _add_task_options(self, ctx: click.Context, args: list[str]) -> None:
        found = self.task_options(ctx, args)
        known = {param.name for param in self.params}
        if found is not None:
            added = [flag for flag in task_flags(*found) if flag.name not in known]
            self.params = [*self.params, *added]
            ctx.meta["tfm.task_options"] = [flag.name for flag in added]


class TaskCommand(Command):
    """A command that takes the task from `--task` or the run of `--init`, or guesses it from
    `--data`."""

    def task_options(self, ctx: click.Context, args: list[str]) -> tuple[str, type] | None:
        from ..core.data.source import Source
        from ..core.errors import TfmError
        from ..core.exchange.formats import importer
        from ..core.plugins import find, guess_task
        from ..core.runs.catalogue import open_run

        data = [expanded(value) for name, value in _option_pairs(args) if name == "--data"]
        data += [expanded(word) for word in self._files(args)]
        mixed = any(name == "--mix" for name, _ in _option_pairs(args))
        name = "mix" if mixed else peek(args, "task") or (ctx.default_map or {}).get("task")
        init = peek(args, "init")
        root = peek(args, "runs") or (ctx.default_map or {}).get("runs") or "runs"
        try:
            if not name and init and importer(init):
                name = "text"
            elif not name and init:
                name = open_run(init, Path(root)).config["task"]
            source = Source(tuple(data), peek(args, "column"))
            name = name or (guess_task(source).task if data else "text")
            task = find("tasks", name)
            return task.name, task.Options
        except (TfmError, OSError):
            return None

    def _files(self, args: list[str]) -> list[str]:
        """The arguments that are no option and no value of one, before click parses them. What
        follows an unknown option, which the task may have, is one if such a file exists."""
        kinds = {
            name: p.is_flag
            for p in self.params
            if isinstance(p, click.Option)
            for name in (*p.opts, *p.secondary_opts)
        }
        found = []
        for before, word in zip(["", *args], args, strict=False):
            if word.startswith("-") and word != "-":
                continue
            if len(before) > 1 and before[0] == "-" and "=" not in before and not kinds.get(before):
                if before in kinds or not os.path.exists(word):
                    continue
            found.append(word)
        return found


class RunTaskCommand(Command):
    """A command that takes the task from the run: the first argument that is not an option."""

    def options_of(self, task: type[Task]) -> type:
        """The dataclass of the task whose fields are flags of this command."""
        return task.SampleOptions

    def task_options(self, ctx: click.Context, args: list[str]) -> tuple[str, type] | None:
        from ..core.errors import TfmError
        from ..core.plugins import find
        from ..core.runs.catalogue import open_run

        takes_value = {
            name
            for p in self.params
            if isinstance(p, click.Option) and not p.is_flag
            for name in p.opts
        }
        words = [
            word
            for at, word in enumerate(args)
            if not word.startswith("-") and (at == 0 or args[at - 1] not in takes_value)
        ]
        root = peek(args, "runs") or (ctx.default_map or {}).get("runs") or "runs"
        part = next((value for name, value in _option_pairs(args) if name == "--task"), None)
        for word in [*words, None]:
            try:
                task = find("tasks", open_run(part_of(word, part), Path(root)).config["task"])
                return task.name, self.options_of(task)
            except (TfmError, KeyError):
                continue
        return None


class EvalCommand(RunTaskCommand):
    """The same of `tfm eval`."""

    def options_of(self, task: type[Task]) -> type:
        return task.EvalOptions


def task_options_of(options: type, verb: str, flags: Mapping[str, Any]) -> Any:
    """An instance of a task's options from the flags of a command. UsageError, before the work, if
    a file that it names could not be written."""
    from ..core.config import with_fields
    from ..core.files import check_output

    given = {f.name: flags[f.name] for f in fields(options) if flags.get(f.name) is not None}
    found = with_fields(options(), verb, given)
    for f in fields(options):
        if f.metadata.get("file") and getattr(found, f.name):
            check_output(Path(getattr(found, f.name)), force=True)
    return found


def listed(text: str, flag: str) -> list[str]:
    """The names in a list such as "lstm, cnn". ConfigError if there are none, or an empty one."""
    from ..core.errors import ConfigError

    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise ConfigError(f"{flag} {text}: must be names, separated by commas")
    return found


def part_of(run: str | None, part: str | None) -> str | None:
    """RUN:PART, the name of one domain of a run of several."""
    named = part is None or (run or "").endswith(f":{part}")
    return run if named else f"{run or ''}:{part}"


def task_flags(task: str, options: Any) -> list[click.Option]:
    """The fields of a task's options (a dataclass) as flags."""
    hints = get_type_hints(options)
    flags: list[click.Option] = []
    for f in fields(options):
        if f.metadata.get("internal"):
            continue
        choices = f.metadata.get("choices")
        default = "" if f.default in (None, False, MISSING) else f"; default: {f.default}"
        flags.append(
            Option(
                [f"--{f.name.replace('_', '-')}"],
                type=click.Choice(choices) if choices else _inner_type(hints[f.name]),
                is_flag=hints[f.name] is bool,
                default=None,
                help=f"{f.metadata.get('help', '')}  [{task}{default}]",
            )
        )
    return flags


def _inner_type(hint: Any) -> Any:
    """The type inside an optional one: int for `int | None`."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    inner = parts[0] if parts else hint
    return Real() if inner is float else inner


def _option_pairs(args: list[str]) -> Iterator[tuple[str, str]]:
    """(option, value) pairs of the raw arguments, before click parses them."""
    for at, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if arg.startswith("--") and equals:
            yield name, value
        elif arg.startswith("--") and at + 1 < len(args):
            yield arg, args[at + 1]


def peek(args: list[str], name: str) -> str | None:
    """An option's value from the raw arguments or the environment, before click parses them."""
    for option, value in _option_pairs(args):
        if option == f"--{name}":
            return str(expanded(value))
    variable = os.environ.get(f"TFM_{name.upper()}")
    return None if variable is None else str(expanded(variable))


run_argument = click.argument(
    "run", required=False, metavar="[RUN]", shell_complete=names.complete_run
)
json_option = option("--json", "as_json", is_flag=True, envvar="TFM_JSON", help="Print JSON.")
device_option = option(
    "--device", default="auto", show_default=True, help="cpu, cuda, mps, auto (the fastest one)."
)


def dtype_option(default: str) -> Callable[[F], F]:
    return option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16", "int8"]),
        help=f"Dtype of the weights.  [default: {default}]",
    )


# Does not read TFM_TASK or `task` of a config file: those are for training.
part_option = click.option(
    "--task", "part", metavar="PART", help="The domain, of a run of several: RUN:PART for short."
)
checkpoint_option = option(
    "--checkpoint",
    default="last",
    show_default=True,
    metavar="last|best|STEP",
    help="Which checkpoint.",
)
data_holdout_option = option(
    "--holdout",
    type=Real(0, 1, min_open=True, max_open=True),
    metavar="PART",
    help="With --data: score only what training on it with this --holdout would hold out.",
)
runs_option = option(
    "--runs",
    type=click.Path(),
    default="runs",
    show_default=True,
    metavar="DIR",
    help="Folder that holds the runs.",
)


def split_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that say how data is read, split and tokenized."""
    for decorate in reversed(_SPLIT):
        command = decorate(command)
    return command


_SPLIT = (
    option("--column", help="The column of a table that holds the items."),
    option("--valid", multiple=True, metavar="PATH", help="Validation data (else part of --data)."),
    option("--test", multiple=True, metavar="PATH", help="Data for the final score."),
    option(
        "--holdout",
        type=Real(0, 0.9, min_open=True),
        metavar="FRACTION",
        help="Fraction of the data to hold out.  [default: 0.1]",
    ),
    option("--tokenizer", metavar="NAME", help="byte, char, bpe, bpe:SIZE, hf:PATH, FILE.json ..."),
)
