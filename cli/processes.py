"""Joining the processes of a training, as one of them.

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
from typing import TYPE_CHECKING

from ..core.errors import TfmError, UsageError
from .launch import LAUNCH_VARIABLE, LOST_PEER

if TYPE_CHECKING:
    from ..core.train.peers import Peers

WATCH_SECONDS = 0.5  # between looks at the launcher


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


def is_launched() -> bool:
    """Whether launch.py has started this process."""
    return LAUNCH_VARIABLE in os.environ


def join(device: str, shard: bool) -> tuple[Peers, str]:
    """(the processes of this training, this one's device). UsageError or TfmError if they cannot
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
        raise UsageError(f"--device {picked.type}: only GPUs of CUDA and CPUs train together")
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
def one_voice(peers: Peers) -> Iterator[None]:
    """Of several processes one says what has ended the training: the leading one if it knows."""
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
            raise TfmError(
                "another process of this training has ended; continue from the last checkpoint "
                "with tfm train --resume"
            ) from error
        if not peers.is_heard():
            raise SystemExit(getattr(error, "exit_code", 1)) from None
        if isinstance(error, TfmError) and not peers.leads:
            raise type(error)(f"process {peers.rank}: {error}") from error
        raise
