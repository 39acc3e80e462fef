"""Joining the processes of a command, as one of them: of a training, of scores or of samples.

A process joins where a launcher has set RANK and WORLD_SIZE: launch.py, torchrun, or Slurm's srun
(SLURM_PROCID and SLURM_NTASKS) if MASTER_ADDR is set. torch.distributed is imported only then.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import TfmError, UsageError
from . import settings
from .launch import LAUNCH_VARIABLE, LOST_PEER, launch, processes_to_start

if TYPE_CHECKING:
    from ..core.model.sequence_model import SequenceModel
    from ..core.protocols import Tokenizer
    from ..core.runs.run import Run
    from ..core.task import Task
    from ..core.train.peers import Peers

WATCH_SECONDS = 0.5  # between looks at the launcher
QUANTIZED_ROWS = 256  # of the forward passes that weights in another dtype are laid out for


def size_from_launcher() -> int:
    """The number of processes that a launcher has started, of which this is one; 0 without one."""
    values = os.environ
    several = values.get("SLURM_NTASKS", "1") != "1" and "MASTER_ADDR" in values
    if several and "SLURM_PROCID" in values and "RANK" not in values:
        values["RANK"], values["WORLD_SIZE"] = values["SLURM_PROCID"], values["SLURM_NTASKS"]
        values["LOCAL_RANK"] = values.get("SLURM_LOCALID", "0")
        values.setdefault("MASTER_PORT", "29500")
    if "RANK" not in values or "WORLD_SIZE" not in values:
        return 0
    try:
        rank, size, _ = (int(values.get(n, "0")) for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except ValueError:
        rank, size = 0, 0
    if not 0 <= rank < size or (size > 1 and "MASTER_ADDR" not in values):
        raise UsageError(
            "RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR: they are set as by a launcher of several "
            "processes, but not all of them or not rightly; unset them, or start with torchrun"
        )
    return size


def processes_of(wanted: int, device: str) -> tuple[int, bool]:
    """(the number of processes of this command, whether they are to be started). wanted: by
    --nproc. UsageError if a launcher has started another number."""
    started = size_from_launcher()
    if not started:
        count = processes_to_start(wanted, device)
        return count, count > 1
    by_flag = settings.origin(click.get_current_context(), "nproc") == "flag"
    if by_flag and wanted not in (0, started):
        raise UsageError(
            f"--nproc {wanted}: a launcher has started {started} processes already; leave it out"
        )
    return started, False


def is_launched() -> bool:
    """Whether launch.py has started this process."""
    return LAUNCH_VARIABLE in os.environ


def join(device: str, shard: bool) -> tuple[Peers, str]:
    """(the processes of this command, this one's device). UsageError or TfmError if they cannot
    meet, or this process has no device of its own."""
    from ..core.train.peers import ALONE

    if size_from_launcher() < 2:
        return ALONE, device
    if is_launched():
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    from ..core.ops.device import pick_device
    from ..core.train import distributed

    picked = pick_device(device)
    if picked.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        picked = pick_device(f"cuda:{local}")
        import torch

        if local >= torch.cuda.device_count():
            raise UsageError(
                f"process {os.environ['RANK']}: this machine has {torch.cuda.device_count()} GPUs, "
                "and each process needs one; start fewer processes, or use --device cpu"
            )
    elif picked.type != "cpu":
        raise UsageError(f"--device {picked.type}: only GPUs of CUDA and CPUs work together")
    peers = distributed.join(picked, shard)
    if peers.leads:
        tell_launcher("leader", str(os.getpid()))
    return peers, str(picked)


def tell_launcher(name: str, text: str) -> None:
    """Writes a file that launch.py reads, if it has started this process."""
    if is_launched():
        with suppress(OSError):  # the launcher has ended
            (Path(os.environ[LAUNCH_VARIABLE]) / name).write_text(text)


def _watch(launcher: int) -> None:
    """Ends this process as by SIGTERM when its launcher is gone."""
    while os.getppid() == launcher:
        time.sleep(WATCH_SECONDS)
    shutil.rmtree(os.environ[LAUNCH_VARIABLE], ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def one_voice(peers: Peers, advice: str) -> Iterator[None]:
    """Of several processes one says what has ended the command: the leading one if it knows.
    advice: what to do where another process has ended without a word."""
    try:
        yield
    except Exception as error:
        if peers.size == 1:
            raise
        from ..core.train.peers import LostPeerError
        from ..core.train.replicas import is_lost_peer

        if isinstance(error, LostPeerError) or is_lost_peer(error):
            if is_launched() or not peers.leads:
                raise SystemExit(LOST_PEER) from None
            raise TfmError(f"another process of this command has ended; {advice}") from error
        if not peers.is_heard():
            raise SystemExit(getattr(error, "exit_code", 1)) from None
        if isinstance(error, TfmError) and not peers.leads:
            raise type(error)(f"process {peers.rank}: {error}") from error
        raise


# -- scores and samples --------------------------------------------------------------------------


class Team:
    """The processes of a command that scores or samples, led by this one. See core/divided.py."""

    def __init__(self, peers: Peers, device: str) -> None:
        self.peers, self.device = peers, device

    def tell(
        self, run: Run, checkpoint: str, kernels: bool = False, dtype: str = "float32"
    ) -> None:
        """Tells the others which model to load, while this process loads it. Threads are set.
        kernels: whether this process computes with those in C; dtype: of the model's weights."""
        if self.peers.size > 1:
            import torch

            from .kernels import compiled

            about = {
                "run": run.address,
                "checkpoint": str(run.checkpoint(checkpoint).step),
                "kernels": kernels and compiled() is not None,
                "dtype": dtype,
                "threads": torch.get_num_threads(),
            }
            self.peers.spread(lambda: about)

    @contextmanager
    def lead(self, model: SequenceModel, tokenizer: Tokenizer, task: Task) -> Iterator[None]:
        """The work within is divided."""
        from ..core.divided import leading

        with leading(self.peers, model, tokenizer, task):
            yield


@contextmanager
def together(nproc: int, device: str) -> Iterator[Team]:
    """Starts or joins the processes of a command that scores or samples. The work within is that of
    the leading one; in the others it is not entered, and the command ends after they have helped.
    """
    from .main import COMMAND_START

    count, starts = processes_of(nproc, device)
    if starts:
        launch(count, COMMAND_START, divides_cores=False)
    peers, device = join(device, shard=False)
    with one_voice(peers, "run it again"):
        peers.wait()  # none ends while another one is still joining
        if peers.leads:
            yield Team(peers, device)
            return
        _help(peers, device)
    raise SystemExit(0)


def _help(peers: Peers, device: str) -> None:
    """Computes for the leading process, until that has all results."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # there is nothing to tidy up
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    from ..core.divided import serve
    from ..core.ops.device import pick_device, use_threads
    from ..core.runs.catalogue import open_run
    from . import kernels

    about: dict[str, Any] = peers.spread(dict)
    use_threads(about["threads"])
    if about["kernels"]:
        kernels.use_kernels()
        needs_compiler(kernels.compiled())
    run = open_run(about["run"], Path(), whole=True)
    model = run.load_model(about["checkpoint"], pick_device(device)).eval()
    if about["dtype"] != "float32":
        from ..core.decode.quantized_linear import with_weights_in

        model = with_weights_in(model, about["dtype"], rows=QUANTIZED_ROWS)
    serve(peers, model, run.tokenizer(), run.task())


def needs_compiler(library: object) -> None:
    """TfmError without the C library that the leading process has: results would differ."""
    if library is None:
        raise TfmError("no C compiler here, unlike where the first process runs; install one")
