"""`tfm bench`: its FLOPs formula against torch's FLOP counter, its table and its JSON."""

import json

import numpy as np
import pytest
import torch
from conftest import Tfm
from torch.utils.flop_counter import FlopCounterMode

from tfm.cli.bench import _tables, command
from tfm.core.architectures import model_config
from tfm.core.bench import RandomRows, matmul_peak, measure_training
from tfm.core.config import ModelConfig, TrainConfig
from tfm.core.data.datasets import step_batch
from tfm.core.errors import TfmError
from tfm.core.model.loss import Objective
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops.device import autocast
from tfm.core.score.likelihood import as_tensors

CPU = torch.device("cpu")


@pytest.mark.parametrize("arch", ["transformer", "llama", "gpt2"])
def test_the_formula_counts_what_is_multiplied(arch: str) -> None:
    model = SequenceModel(model_config(arch, "nano", vocab_size=500, context=32))
    batch = as_tensors(step_batch(RandomRows(500, 32), 0, 4, 0), CPU)
    counter = FlopCounterMode(display=False)
    with counter, autocast(CPU, "bfloat16"):  # attention is then plain products, which torch counts
        Objective(model)(batch).backward()  # type: ignore[no-untyped-call]
    assert counter.get_total_flops() / (4 * 32) == pytest.approx(model.flops_per_token(), rel=0.02)


def test_rows_are_a_function_of_their_number() -> None:
    data = RandomRows(50, 8)
    one, two = (data.batch(np.array([7, 8])).ids for _ in range(2))
    assert one.shape == (2, 9) and (one == two).all() and one.max() < 50


def test_training_is_measured() -> None:
    config = ModelConfig(vocab_size=64, layers=1, width=16, heads=2, context=8)
    found = measure_training(config, TrainConfig(steps=100, batch=2), CPU, 0.0)
    assert found.tokens_per_second > 0 and found.context == 8 and found.batch == 2
    assert found.peak_bytes is None or found.peak_bytes >= 0
    assert matmul_peak(CPU, torch.float32, 0.0) > 0


def test_it_prints_a_table_or_json(tfm: Tfm) -> None:
    args = ("bench", "--size", "nano", "--seconds", "0", "--context", "8,16", "--vocab", "40")
    done = tfm(*args, "--json", "-q")
    assert done.err == ""
    found = json.loads(done.out)
    assert found["schema"] == 1 and found["size"] == "nano"
    assert [row["context"] for row in found["training"]] == [8, 16]
    assert [row["draws"] for row in found["decoding"]] == [1, 32]
    assert all(0 < row["utilisation"] for row in found["training"])
    assert all(row["tokens_per_second"] > 0 for row in found["decoding"])
    table = _tables(found)
    assert "training" in table and "decoding" in table and "context" in table


@pytest.mark.parametrize(
    "flags",
    [
        ("--context", "a"),
        ("--context", "8,0"),
        ("--size", "huge"),
        ("--dtype", "int8"),
        ("--arch", "rnnn"),
        ("--device", "tpu"),
    ],
)
def test_wrong_flags_are_one_line(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, str]
) -> None:
    with pytest.raises(TfmError) as caught:
        command.main(["-q", *flags], standalone_mode=False)
    assert flags[0].lstrip("-") in str(caught.value) and "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
