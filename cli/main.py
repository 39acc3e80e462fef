"""The command group: lazy loading of commands, error messages, signals, exit codes.

`tfm --help` imports this module, so it imports nothing heavy.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import time
from typing import NoReturn

import click

from ..core.errors import TfmError, nearest
from .streams import open_standard_streams


def _process_start() -> float:
    """The time at which this process started, as `time.monotonic` counts: Python itself takes a
    moment before its first import. Where the system does not tell, the time of this import."""
    now = time.monotonic()
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    return now - age if 0 <= age < 5 else now


START_VARIABLE = "_TFM_START"  # of a process of `train --nproc`: when its launcher started
COMMAND_START = float(os.environ.get(START_VARIABLE) or _process_start())  # in seconds

COMMANDS = {
    "train": "Train a model on text, bytes, images, series, sound, pairs or generated items.",
    "eval": "Score a run on its held-out data, next to baselines.",
    "score": "Print the negative log-likelihood of lines, files or other items.",
    "compare": "Test whether one run is worse than another (paired bootstrap).",
    "sample": "Sample from a run, or continue a prompt.",
    "view": "See inside a run: its tensors on one item, in 3D, as matrices and in figures.",
    "data": "Show a few items as tokens, counts, and what is doubtful about data.",
    "prepare": "Tokenize training data once, into checked shards for many machines.",
    "tokenize": "Print the token ids of text, images, series or sound.",
    "detokenize": "Turn token ids back into text, images, series or sound.",
    "compress": "Compress a file with a run's model.",
    "decompress": "Restore a compressed file.",
    "export": "Write a run's model for transformers, llama.cpp or onnxruntime.",
    "import": "Make a run of a model of transformers or llama.cpp.",
    "verify": "Check a run's files, and optionally that it resumes exactly.",
    "rerun": "Repeat a run, and compare the result with the original.",
    "runs": "List runs, newest last.",
    "info": "Show a run's settings, data, model and loss curve.",
    "tasks": "List tasks, or one task's options.",
    "new": "Write the skeleton of a package with a task of your own.",
    "probe": "Measure what a model makes of its context, or how far architectures recall.",
    "ablate": "Compare configurations fairly: what each change of an architecture is worth.",
    "bench": "Measure the speed of training and decoding on this machine.",
    "scale": "Fit scaling laws, and predict the best size and its loss for a larger budget.",
    "completion": "Print a shell completion script.",
    "config": "Print every setting and where it comes from.",
}


class ReaderGone(Exception):
    """The reader of stdout closed it. click would turn a BrokenPipeError into exit code 1."""


class LazyGroup(click.Group):
    """A group whose commands are modules of this folder, imported when called."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"tfm.cli.{name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no such command {args[0]!r}; {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[click.shell_completion.CompletionItem[str]]:
        """Completes from COMMANDS, so that no command is imported."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            names = [name for p in self.get_params(ctx) for name in p.opts]
            return [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [
            CompletionItem(name, help=summary)
            for name, summary in COMMANDS.items()
            if name.startswith(incomplete)
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from ..core.config import tfm_version

        click.echo(f"tfm {tfm_version()}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: tfm train --task text && tfm sample",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Train, score and sample sequence models of text, bytes, images, series and pairs."""


def main() -> NoReturn:
    """Runs a command. Every error becomes one line on stderr and an exit code."""
    open_standard_streams()
    for name in ("SIGTERM", "SIGHUP"):  # `train` has its own; a parent can have them ignored
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    off = ("", "0", "false", "no", "off")
    debug = "--debug" in sys.argv or os.environ.get("TFM_DEBUG", "").lower() not in off
    try:
        code = _run()
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            import traceback

            traceback.print_exc()
        code = handle_error(error)
    exit_process(code)


def _end(number: int, frame: object) -> NoReturn:
    """A signal handler: the command ends as by an error, so that it can clean up."""
    raise SystemExit(128 + number)


def exit_process(code: int) -> NoReturn:
    """Exits. With a code above 128 the process kills itself by that signal (code - 128), so that
    shells see a death by signal."""
    from ..core.data import scratch

    scratch.clean()
    if code > 128 and os.name == "posix":
        signal.signal(code - 128, signal.SIG_DFL)
        os.kill(os.getpid(), code - 128)
    try:
        sys.stderr.flush()
    except OSError:
        pass
    # stdout is flushed already; unloading torch would take a noticeable time
    os._exit(code)


def _run() -> int:
    try:
        result = cli.main(prog_name="tfm", standalone_mode=False)
    finally:
        if sys.exc_info()[0] not in (ReaderGone, BrokenPipeError):
            sys.stdout.flush()
    return result if isinstance(result, int) else 0


def handle_error(error: BaseException) -> int:
    """Prints one line about an error and returns the exit code."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (ReaderGone, BrokenPipeError)):
        return 128 + 13  # SIGPIPE, which Windows does not define
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return 128 + signal.SIGINT
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return 2
    if isinstance(error, click.UsageError):
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        return _print_error(error.format_message().rstrip(".") + where, 2)
    if isinstance(error, click.ClickException):
        return _print_error(error.format_message(), 2)
    if isinstance(error, TfmError):
        return _print_error(str(error), error.exit_code)
    if isinstance(error, OSError) and error.errno == errno.EBADF and error.filename is None:
        return _print_error("standard output: closed, so that nothing could be written", 1)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        return _print_error(f"{error.filename or 'standard output'}: {error.strerror}", 1)
    if isinstance(error, OSError):
        return _print_error(f"{error.filename or 'system'}: {error.strerror or error}", 1)
    if (
        isinstance(error, MemoryError)
        or any(words in str(error) for words in ("not enough memory", "allocate memory"))
        or (type(error).__name__ == "OutOfMemoryError")
    ):
        return _print_error(
            "out of memory; halve the batch size (--set train.batch=N) or choose a smaller --size",
            1,
        )
    line = (str(error).strip().splitlines() or [""])[0]
    return _print_error(f"unexpected {type(error).__name__}: {line}; --debug prints a traceback", 1)


def _print_error(message: str, code: int) -> int:
    if os.environ.get("_TFM_COMPLETE"):  # during shell completion a message would break the line
        return code
    from .render import printable

    line = " ".join(message.split())
    try:  # file names are untrusted: escape control characters on a terminal
        print(f"Error: {printable(line) if sys.stderr.isatty() else line}", file=sys.stderr)
    except OSError:
        pass
    return code
