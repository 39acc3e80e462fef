"""Out of memory: the error names a batch size that fits, and checkpoints stay valid."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Tfm
from helpers import RandomRows, small_model

from tfm.core.config import TrainConfig
from tfm.core.errors import TfmError
from tfm.core.ops.out_of_memory import halve_micro_batch
from tfm.core.protocols import Array, Batch, Ids
from tfm.core.train.loop import train
from tfm.core.train.optim import make_optimizers

# Limits memory like `ulimit -v`, to `room` bytes above the use after all imports.
LIMITED = """
import resource, sys
import tfm.core.train.validation, tfm.core.train.prepare, tfm.cli.main, torch
torch.zeros(8, 8, requires_grad=True).matmul(torch.zeros(8, 8)).sum().backward()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {room},) * 2)
sys.argv = ["tfm", *{arguments!r}]
tfm.cli.main.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_real_limit(tfm: Tfm, text: Path) -> None:
    first = ("train", "--task", "text", "--data", str(text), "--tokenizer", "byte", "-q")
    shape = ("--size", "nano", "--set", "train.batch=640", "--steps", "1", "--run", "run")
    tfm(*first, *shape, "--set", "train.dtype=float32")
    code = LIMITED.format(
        room=300 << 20, arguments=("train", "--resume", "run", "--steps", "3", "-q")
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tfm.folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: out of memory in a pass of 640 rows of 64 tokens; "), line
    fits = int(line.partition("--set train.batch=")[2].split()[0])
    assert 1 <= fits <= 320 and line.endswith(f"--set train.accumulate={640 // fits}")
    tfm("verify", "run", "-q")


class Narrow(RandomRows):
    """Rows whose batches of more than `rows` raise `error`."""

    def __init__(self, rows: int, error: Exception) -> None:
        super().__init__()
        self.rows, self.error = rows, error

    def batch(self, indices: Ids) -> Batch[Array]:
        if len(indices) > self.rows:
            raise self.error
        return super().batch(indices)


def first_step(data: RandomRows, config: TrainConfig) -> None:
    model = small_model(vocab_size=11, context=8)
    next(train(model, data, config, make_optimizers(model, config)))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_every_kind_of_it_is_known(error: Exception) -> None:
    config = TrainConfig(batch=12, accumulate=2)
    expected = "of 12 rows of 8 tokens; 3 fit, .* train.batch=3 --set train.accumulate=8$"
    with pytest.raises(TfmError, match=expected):
        first_step(Narrow(5, error), config)
    with pytest.raises(TfmError, match="not even one row fits: use a smaller --size"):
        first_step(Narrow(0, error), config)
    with pytest.raises(RuntimeError, match="another"):
        first_step(Narrow(0, RuntimeError("another")), config)


def test_a_step_keeps_its_rows() -> None:
    config, passes = TrainConfig(batch=15, accumulate=2), []
    while (smaller := halve_micro_batch(config)) is not None:
        assert smaller.batch * smaller.accumulate == 30
        config = smaller
        passes.append(config.batch)
    assert passes == [6, 3, 1]
