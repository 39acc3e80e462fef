"""The command group: lazy commands, errors, signals, exit codes.

This is what `tfm --help` imports, so it imports nothing heavy.
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

STARTED = time.monotonic()  # of the command, as near as a module can tell

COMMANDS = {
    "train": "Train a model on text, bytes or any other tokens.",
    "eval": "Score a run on what was held out, beside trivial answers.",
    "score": "Score lines, files or other items: the unlikely ones stand out.",
    "compare": "Say whether one run is worse than another, and how sure that is.",
    "sample": "Draw from a run, or go on from a prompt.",
    "tokenize": "Print the ids of text, pictures or series.",
    "detokenize": "Turn ids back into what they stand for.",
    "compress": "Compress a file with a run's model.",
    "decompress": "Bring a compressed file back.",
    "verify": "Check every file of a run, and that it resumes exactly.",
    "rerun": "Repeat a run, and say whether it comes out the same.",
    "runs": "List runs, newest last.",
    "info": "Show what a run is made of.",
    "tasks": "List tasks, or one task's options.",
    "bench": "Measure training and decoding on this machine.",
    "completion": "Print the script by which a shell completes tfm.",
    "config": "Print every setting and where it comes from.",
}


class ReaderGone(Exception):
    """Nobody reads what is written: a BrokenPipeError, which click would make exit code 1."""


class LazyGroup(click.Group):
    """Commands are modules of this folder, imported when called."""

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
        """By the table above: no command is imported for its name."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            names = [name for p in self.get_params(ctx) for name in p.opts]
            return [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [
            CompletionItem(name, help=about)
            for name, about in COMMANDS.items()
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
    """One transformer, any sequence: train, score and sample models of token sequences."""


def main() -> NoReturn:
    """Runs a command; every way out of it is one line on stderr and an exit code."""
    debug = "--debug" in sys.argv or bool(os.environ.get("TFM_DEBUG"))
    try:
        code = _run()
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            import traceback

            traceback.print_exc()
        code = _explain(error)
    leave(code)


def leave(code: int) -> NoReturn:
    """Exits; a code beyond 128 by the signal's own default action, so that shells see it."""
    from ..core.data import source

    source.clean()
    if code > 128 and os.name == "posix":
        signal.signal(code - 128, signal.SIG_DFL)
        os.kill(os.getpid(), code - 128)
    try:
        sys.stderr.flush()
    except OSError:
        pass
    # stdout is flushed already, and torch takes its time to unload
    os._exit(code)


def _run() -> int:
    try:
        result = cli.main(prog_name="tfm", standalone_mode=False)
    finally:
        if sys.exc_info()[0] not in (ReaderGone, BrokenPipeError):
            sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _explain(error: BaseException) -> int:
    """Says what went wrong, in one line, and gives the exit code."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (ReaderGone, BrokenPipeError)):
        return 128 + 13  # SIGPIPE, by number: Windows has no name for it
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return 128 + signal.SIGINT
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return 2
    if isinstance(error, click.UsageError):
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        return _say(error.format_message().rstrip(".") + where, 2)
    if isinstance(error, click.ClickException):
        return _say(error.format_message(), 2)
    if isinstance(error, TfmError):
        return _say(str(error), error.exit_code)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        return _say(f"{error.filename or 'standard output'}: {error.strerror}", 1)
    if isinstance(error, OSError):
        return _say(f"{error.filename or 'system'}: {error.strerror or error}", 1)
    if (
        isinstance(error, MemoryError)
        or any(words in str(error) for words in ("not enough memory", "allocate memory"))
        or (type(error).__name__ == "OutOfMemoryError")
    ):
        return _say(
            "out of memory; try half the batch: --set train.batch=N, or a smaller --size", 1
        )
    line = (str(error).strip().splitlines() or [""])[0]
    return _say(f"unexpected {type(error).__name__}: {line}; --debug shows where", 1)


def _say(message: str, code: int) -> int:
    if os.environ.get("_TFM_COMPLETE"):  # a shell asks, in the middle of a line
        return code
    from .render import printable

    line = " ".join(message.split())
    try:  # a name may come from a stranger, and a terminal obeys what it is sent
        print(f"Error: {printable(line) if sys.stderr.isatty() else line}", file=sys.stderr)
    except OSError:
        pass
    return code
