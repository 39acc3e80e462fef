"""`--nproc N`: starts N processes of this command, and ends when they do.

The launcher is torch's own (torch.distributed.launcher), without restarts: a process that dies ends
all, and `tfm train --resume` continues from the last checkpoint. processes.py is the other side.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

from ..core.cores import allowed_cores
from ..core.errors import TfmError, UsageError
from .main import START_VARIABLE, exit_process
from .options import Count, F, option

LAUNCH_VARIABLE = "_TFM_LAUNCH"  # tells a process the folder that it shares with its launcher
LOST_PEER = 75  # the exit code of a process that ends because another one did
STOPPING = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE")]


class Processes(Count):
    """A number of processes; 0 for `auto`: as many as there are GPUs, else one."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if value in ("auto", 0):
            return 0
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r}: must be a positive whole number, or auto for one a GPU")
        return int(value)


def nproc_option(does: str) -> Callable[[F], F]:
    """does: what the processes do, at the start of the help."""
    return option(
        "--nproc",
        type=Processes(),
        default=1,
        metavar="N",
        help=f"{does} by N processes on this machine; auto: one a GPU.  [default: 1]",
    )


def processes_to_start(wanted: int, device: str) -> int:
    """The processes of --nproc on this machine (0: auto). UsageError if there are fewer GPUs."""
    if wanted == 1 or device == "cpu":
        return wanted or 1
    if device not in ("auto", "cuda"):
        if wanted:
            raise UsageError(f"--nproc {wanted}: {device} is one device; use --device cuda")
        return 1
    import torch

    gpus = torch.cuda.device_count()
    if wanted > gpus and (gpus or device == "cuda"):
        raise UsageError(
            f"--nproc {wanted}: this machine has {gpus} GPUs, and each process needs one; use "
            f"--nproc {max(1, gpus)} or --device cpu"
        )
    return wanted or max(1, gpus)


def launch(count: int, began: float, divides_cores: bool) -> NoReturn:
    """Runs this command, which `began` at a time of time.monotonic, `count` times, as processes
    that work together, and exits as they do. divides_cores: among their threads. Otherwise each has
    as many threads as one process alone, so that its results have the same bits; waiting threads
    then leave the cores to the others."""
    os.environ[START_VARIABLE] = str(began)
    if divides_cores:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, allowed_cores() // count)))
    else:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with tempfile.TemporaryDirectory(prefix="tfm-launch-") as folder:
        code = _launch(count, Path(folder))
    exit_process(code)


def _launch(count: int, folder: Path) -> int:
    """The exit code; above 128 for a signal."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # the processes talk themselves
    if sys.platform == "linux":  # they meet on this machine, whatever its name resolves to
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ[LAUNCH_VARIABLE] = str(folder)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="tfm",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs")),
    )
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, lambda number, frame: _pass_on(number, folder))
    try:
        elastic_launch(config, sys.executable)("-P", "-m", "tfm", *sys.argv[1:])
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        ended = sorted(error.failures.items(), key=lambda pair: pair[1].timestamp)
        codes = {rank: failure.exitcode for rank, failure in ended}
        return exit_code(codes, folder, count)
    return 0


def _pass_on(number: int, folder: Path) -> None:
    """Sends a signal to the leading process, if it has started."""
    with suppress(OSError, ValueError):
        os.kill(int((folder / "leader").read_text()), number)


def exit_code(codes: Mapping[int, int], folder: Path, count: int) -> int:
    """The exit code of the command, from those of the processes that failed, by rank, in the order
    in which they ended; negative: of a signal. TfmError if none of them has said why."""
    stops = {-int(each) for each in STOPPING if each is not None}
    died = {rank: -code for rank, code in codes.items() if code < 0 and code not in stops}
    said = [code for code in codes.values() if code > 0 and code != LOST_PEER]
    if said and not died:
        return max(said)
    if not died and (LOST_PEER not in codes.values() or codes.get(0, 0) < 0):
        return 128 - codes.get(0, next(iter(codes.values())))
    path = folder / "run"
    run = Path(path.read_text()) if path.exists() else None
    resume = ""
    if run is not None and run.exists():
        resume = f"; resume with: tfm train --resume {quote(str(run))} --nproc {count}"
    if not died:
        raise TfmError(f"the processes lost each other{resume}")
    # the first: the launcher kills those that do not end after it
    rank, number = next(iter(died.items()))
    raise TfmError(f"process {rank} of {count} was ended by {signal_name(number)}{resume}")


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
