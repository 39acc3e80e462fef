"""`tfm bench`: its FLOPs formula against torch's FLOP counter, its table and its JSON."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Tfm
from torch.utils.flop_counter import FlopCounterMode

from tfm.cli.bench import _tables, command
from tfm.cli.bench_lengths import charts, tables
from tfm.core import cores
from tfm.core.architectures import model_config
from tfm.core.bench import DecodingSpeed, RandomRows, TrainingSpeed, matmul_peak, measure_training
from tfm.core.bench_lengths import LengthBench, Timed, extrapolated, fitted_exponent
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


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups of POSIX")
def test_ctrl_c_ends_all_of_its_processes_in_silence(tfm: Tfm) -> None:
    """As the process that measures imports torch: a terminal sends the signal to both."""
    args = ("bench", "--size", "nano", "--seconds", 0, "--context", 8, "--vocab", 40)
    process = tfm.start(*args, start_new_session=True)
    assert process.stderr is not None
    assert any(line.startswith(b"training") for line in process.stderr)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err.strip()) == (b"", b"")
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    "flags",
    [
        ("--context", "a"),
        ("--context", "8,0"),
        ("--size", "huge"),
        ("--dtype", "int8"),
        ("--arch", "rnnn"),
        ("--arch", "lstm,"),
        ("--device", "tpu"),
        ("--arch", "transformer,rnnn"),
        ("--arch", "lstm,encoder-decoder"),
        ("--plot", "out.jpg"),
    ],
)
def test_wrong_flags_are_one_line(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, str]
) -> None:
    with pytest.raises(TfmError) as caught:
        command.main(["-q", *flags], standalone_mode=False)
    assert flags[0].lstrip("-") in str(caught.value) and "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("others", [0.1, 1.2])
def test_other_work_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], others: float
) -> None:
    monkeypatch.setattr(cores.Usage, "by_others", lambda self: others)
    command.main(["--size", "nano", "--seconds", "0", "--json"], standalone_mode=False)
    out, err = capsys.readouterr()
    assert json.loads(out)["cores_used_by_others"] == others
    assert ("other processes use 1.2 of " in err) is (others > 1)


# -- several architectures against the length ----------------------------------------------------


def test_architectures_are_compared_against_the_length(tfm: Tfm) -> None:
    done = tfm(
        *("bench", "--size", "nano", "--seconds", "0", "--vocab", "40", "--json"),
        *("--arch", "transformer,lstm", "--context", "32,8", "--rows", "2", "--plot", "out.svg"),
    )
    found = done.json()
    assert [line for line in done.err.splitlines() if "lstm" in line] == [
        "lstm, length 8 ...",
        "lstm, length 32 ...",
    ]
    cells = [(arch, length) for arch in ("transformer", "lstm") for length in (8, 32)]
    for key in ("training", "sequences", "decoding"):
        rows = found[key]
        assert [(row["arch"], row["context"]) for row in rows] == cells
        assert all(row["seconds"] > 0 and row["tokens_per_second"] > 0 for row in rows)
    assert all(row["batch"] * row["context"] == 3072 for row in found["training"])
    assert {row["batch"] for row in found["sequences"]} == {2}
    assert {(e["of"], e["shortest"], e["longest"], e["low"]) for e in found["exponents"]} == {
        (key, 8, 32, None) for key in ("training", "sequences", "decoding")
    }
    assert found["left_out"] == [] and found["schema"] == 1
    assert (tfm.folder / "out.svg").read_bytes().startswith(b"<?xml")


def test_tables_and_charts_say_what_was_found() -> None:
    """Times of known power laws: of a transformer that is left out at the longest length."""
    lengths = [10, 100, 1000]
    found: dict[str, object] = {
        **dict(device="cpu", threads=2, torch="2", arch="lstm,transformer", size="nano"),
        **dict(vocab_size=40, dtype="float32", read_bytes_per_second=1e9, lengths=lengths),
        **dict(matmul_flops_per_second={"float32": 1e9}, tokens_per_step=3072, rows=1),
        "left_out": [dict(arch="transformer", context=1000, reason="it would take too long")],
    }
    times = {"lstm": [(n, 1e-4 * n) for n in lengths]}
    times["transformer"] = [(n, 5e-4 * n**0.5) for n in lengths[:2]]
    found["exponents"] = [
        dict(arch=arch, of=key, **vars(fitted_exponent(*zip(*own, strict=True))))
        for arch, own in times.items()
        for key in ("training", "sequences", "decoding")
    ]
    for key in ("training", "sequences", "decoding"):
        found[key] = [
            dict(arch=arch, context=n, seconds=seconds, tokens_per_second=1 / seconds)
            for arch, own in times.items()
            for n, seconds in own
        ]
    text = tables(found)
    rows = [
        line.split() for line in text.splitlines() if line.startswith(("lstm ", "transformer "))
    ]
    assert rows[2] == ["lstm", "1", "10", "100", "1.00", "[1.00,", "1.00]"]
    assert rows[3] == ["transformer", "1.58", "5", "–", "0.50"]
    assert "transformer at 1,000: left out, it would take too long" in text
    training, sequences, decoding = charts(found)
    assert sequences.y.label == "training step of one sequence (ms)" and sequences.x.log
    assert "lstm 1.00 [1.00, 1.00] over 10 to 1,000" in sequences.verdict
    assert sequences.verdict.startswith("Held at 100 tokens only. ")
    assert training.verdict.startswith("Did not hold for lstm. ")
    assert decoding.verdict.startswith("Did not hold for lstm. ")
    assert "transformer 0.50 over 10 to 100" in sequences.verdict
    assert "At 100 tokens, in times of lstm: transformer 0.5." in sequences.verdict


def test_the_exponent_of_a_power_law_is_found() -> None:
    fit = fitted_exponent([64, 256, 1024], [3 * n**1.5 for n in (64, 256, 1024)])
    assert fit is not None and fit.low is not None and fit.high is not None
    assert [fit.value, fit.low, fit.high, fit.scale] == pytest.approx([1.5, 1.5, 1.5, 3])
    assert (fit.shortest, fit.longest) == (64, 1024)
    two = fitted_exponent([1, 10], [1, 100])
    assert two is not None and two.value == pytest.approx(2) and two.low is two.high is None
    assert fitted_exponent([64], [1.0]) is None


def test_its_interval_holds_the_true_exponent_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    lengths = [64, 256, 1024, 4096]
    held = 0
    for _ in range(600):
        noise = rng.normal(0, 0.1, len(lengths))
        fit = fitted_exponent(
            lengths, [n**0.8 * np.exp(e) for n, e in zip(lengths, noise, strict=True)]
        )
        assert fit is not None and fit.low is not None and fit.high is not None
        held += fit.low <= 0.8 <= fit.high
    assert 550 <= held <= 588  # 570, within three and a half standard errors


def timed(length: int, step: float, peak: int) -> Timed:
    speed = TrainingSpeed(length, 1, length / step, 1.0, peak)
    return Timed(length, speed, speed, DecodingSpeed(1, "float32", 1.0, 1.0, 1.0))


def test_a_length_that_would_take_too_long_or_too_much_memory_is_left_out() -> None:
    bench = LengthBench(TrainConfig(steps=9), 3072, 1, CPU, 1.0, 1e9)
    short = timed(64, 0.1, 1000)
    assert bench.reason_against([], 1 << 30) is None  # nothing is known yet
    assert bench.reason_against([short], 256) is None
    slow = bench.reason_against([short, timed(256, 4.0, 1000)], 1024)
    assert slow is not None and "4 training steps would take about" in slow and "over 60 s" in slow
    large = bench.reason_against([timed(64, 1e-4, 10**15)], 128)
    assert large is None or "GB of memory" in large  # None where the free memory is unknown
    assert extrapolated([64, 256], [1.0, 2.0], 1024) == pytest.approx(8.0)  # at least linear
    assert extrapolated([64, 256], [1.0, 99.0], 1024) == pytest.approx(99.0 * 16)  # at most square


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes do not come of a server")
def test_a_killed_command_leaves_no_warning_of_what_it_held(tmp_path: Path) -> None:
    """Its semaphores are removed by Python's tracker, which outlives it."""
    script = tmp_path / "killed.py"
    script.write_text(
        "import math, os, signal\n"
        "from multiprocessing import connection, parent_process\n"
        "from threading import Thread\n"
        "from tfm.core.ops.processes import Processes\n"
        "def end_with_parent():\n"
        "    connection.wait([parent_process().sentinel])\n"
        "    os._exit(0)\n"
        "def begin():\n"
        "    Thread(target=end_with_parent, daemon=True).start()\n"
        'if __name__ == "__main__":\n'
        '    pool = Processes(1, "math", begin)\n'
        "    assert pool.submit(math.sqrt, 4.0).result() == 2\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL and done.stderr == ""
