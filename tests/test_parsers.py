"""Every parser of what comes from outside: whatever the bytes, it is understood or refused as one
of tfm's own errors, never by another exception."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Trained
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tfm.cli import options as opt
from tfm.cli.main import cli
from tfm.cli.prompts import json_prompt
from tfm.cli.settings import sets
from tfm.core.config import ModelConfig, SampleConfig, TrainConfig, with_fields
from tfm.core.data.sequence_store import Store, _sha256
from tfm.core.data.source import Source
from tfm.core.errors import TfmError
from tfm.core.files import check_files, log_line, read_log, to_json
from tfm.core.plugins import find, names
from tfm.core.runs.catalogue import open_run
from tfm.core.runs.run import Run, check_free
from tfm.core.train.prepare import make_task
from tfm.tasks._series.reader import parse
from tfm.tasks._series.reading import Columns
from tfm.tasks.image import ImageTask
from tfm.tasks.text import TextTask

much = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
words = st.text(st.sampled_from("0123456789.,-+eE:/\\ \t\"'#=abkMsmhnft²٣é\0\n")) | st.text()
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


def classified(call: Callable[[], Any]) -> Any:
    """What the call gives, none where it is refused in one of tfm's ways; the message is a line
    that says something."""
    try:
        return call()
    except TfmError as error:
        assert str(error).strip() and error.exit_code in (1, 2, 3, 4, 5)
    except click.ClickException as error:
        assert error.format_message().strip()
    return None


def mutations(samples: list[bytes]) -> st.SearchStrategy[bytes]:
    """Real files with some bytes overwritten, cut or doubled, and any bytes."""

    @st.composite
    def mutated(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(st.sampled_from(samples)))
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, max(0, len(data) - 1)))
            how = draw(st.sampled_from(["set", "cut", "drop", "add"]))
            if how == "set" and data:
                data[at] = draw(st.integers(0, 255))
            elif how == "cut":
                del data[at:]
            elif how == "drop":
                del data[at : at + draw(st.integers(1, 8))]
            else:
                data[at:at] = draw(st.binary(max_size=8))
        return bytes(data)

    return mutated() | st.binary(max_size=200)


# -- data ----------------------------------------------------------------------------------------

TEXTS = [b"the quick brown fox\n" * 4, "naïve\r\n東京\u2028\U0001f600".encode()]
TABLES = [
    b"date,x,y\n2024-01-01,1,2\n2024-01-02,3,\n2024-01-03,5,6\n",
    b"id;time;v\na;2024-01-01T00:00;1\na;2024-01-01T01:00;2\nb;2024-01-01T00:00;3\n",
    b"1 2 3\n4 5 6\n",
    b"x\n1\n2\n3\n4\n",
    b'name,v\n"a ""q"" b",1\n',
    b"@relation x\n@attribute series_name string\n@attribute start_timestamp date\n"
    b"@frequency monthly\n@data\nT1:2020-01-01 00-00-00:1,2,?,4\n",
]


@given(mutations(TEXTS), st.sampled_from(["stream", "line", "file"]), st.booleans())
@much
def test_text(folder: Path, data: bytes, each: str, packed: bool) -> None:
    path = folder / ("x.txt.gz" if packed else "x.txt")
    path.write_bytes(gzip.compress(data) if packed else data)
    task = make_task("text", {"each": each})

    def read() -> None:
        train, held = task.split(task.items(Source((str(path),))), None)
        tokenizer = task.fit_tokenizer("char", train)
        list(task.sequences(held, tokenizer))

    classified(read)


@given(mutations([gzip.compress(data) for data in TEXTS]))
@much
def test_packed_text(folder: Path, data: bytes) -> None:
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.txt.gz"  # unpacked once a name
    path.write_bytes(data)
    classified(lambda: TextTask(TextTask.Options()).items(Source((str(path),))))


@given(mutations(TABLES), st.sampled_from([None, "x", "date", "no such"]), st.booleans())
@much
def test_series(data: bytes, column: str | None, resample: bool) -> None:
    for asked in (Columns(), Columns(target=column, resample=resample)):
        found = classified(lambda asked=asked: parse(data, "x.csv", asked))
        for series in found.series if found else ():
            assert not np.isinf(series.values).any()


def pictures() -> list[tuple[str, bytes]]:
    made = []
    pixels = (np.arange(8 * 6 * 3) % 251).astype(np.uint8).reshape(8, 6, 3)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, kind)
        made.append((f"x.{kind.lower()}", out.getvalue()))
    for name in ("x.npy", "x.npz"):
        out = io.BytesIO()
        if name == "x.npy":
            np.save(out, pixels[None])
        else:
            np.savez(out, images=pixels[None], labels=np.array([1]))
        made.append((name, out.getvalue()))
    made.append(("x-idx3-ubyte", b"\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x02" + bytes(8)))
    return made


@pytest.mark.parametrize("name, sound", pictures(), ids=[name for name, _ in pictures()])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of strange headers
def test_pictures(folder: Path, name: str, sound: bytes) -> None:
    @given(mutations([sound]))
    @settings(much, max_examples=40)
    def reads(data: bytes) -> None:
        (folder / name).write_bytes(data)
        classified(lambda: ImageTask(ImageTask.Options()).items(Source((str(folder / name),))))

    reads()


# -- flags and settings --------------------------------------------------------------------------


@given(words)
@much
def test_times_and_counts(text: str) -> None:
    for kind, parsed in ((opt.Duration(), float), (opt.Count(), int)):
        value = classified(lambda kind=kind: kind.convert(text, None, None))
        assert value is None or (isinstance(value, parsed) and 0 < value < float("inf"))


FIELDS = st.sampled_from(
    [
        "model.layers",
        "model.dropout",
        "model.tied",
        "train.lr",
        "train.steps",
        "sample.top_k",
        "task.each",
        "model.",
        ".layers",
        "no.such",
        "sample.greedy",
    ]
)


@given(st.lists(st.builds("{}={}".format, FIELDS, words) | words, max_size=3))
@much
def test_set(texts: list[str]) -> None:
    ctx = click.Context(click.Command("x"))
    ctx.meta["tfm.settings"] = {}
    found = classified(lambda: sets(ctx, tuple(texts)))
    for section, config in (
        ("model", ModelConfig()),
        ("train", TrainConfig()),
        ("sample", SampleConfig()),
    ):
        if found:
            classified(functools.partial(with_fields, config, section, found[section]))
    if found:
        classified(lambda: make_task("text", found["task"]))


TOML = [
    b'size = "base"\nseed = 4\nsteps = 10\n[model]\nlayers = 7\n[train]\nlr = 0.1\n',
    b'[sample]\ntop_k = 3\n[task]\neach = "line"\n',
    b"data = ['a', 'b']\nquiet = true\n",
]


@given(mutations(TOML))
@much
def test_config_files(folder: Path, data: bytes) -> None:
    (folder / "x.toml").write_bytes(data)
    arguments = ["config", "--config", str(folder / "x.toml")]
    classified(lambda: cli.main(arguments, standalone_mode=False) and None)
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    error = result.exception
    assert error is None or isinstance(error, (TfmError, click.ClickException)), repr(error)


@given(words)
@much
def test_names(folder: Path, trained: Trained, name: str) -> None:
    """Of runs, checkpoints, splits, tasks, tokenizers, devices."""
    from tfm.core.ops.device import pick_device

    run = Run(trained.path)
    train = TextTask(TextTask.Options()).items(Source((str(trained.path / "config.json"),)))
    for call in (
        lambda: check_free(folder / name if "/" not in name else Path(name)),
        lambda: open_run(name or None, folder),
        lambda: run.checkpoint(name),
        lambda: run.heldout(name),
        lambda: find("tasks", name),
        lambda: pick_device(name),
        lambda: Source((f"{folder}/no/{name.replace('..', '')}",)).files(),
        lambda: TextTask(TextTask.Options()).fit_tokenizer(name, train),
    ):
        classified(call)


@given(
    mutations([b'{"id": 7, "prompt": "fox"}', b'{"prompt": "\\ud800 \\u00e9"}'])
    | jsons.map(to_json)
)
@much
def test_prompts(line: bytes) -> None:
    prompt = classified(lambda: json_prompt(line, "line 1"))
    assert prompt is None or isinstance(prompt.data, bytes)


# -- what a run is made of -----------------------------------------------------------------------


@given(jsons, st.booleans())
@much
def test_manifests(folder: Path, value: Any, signed: bool) -> None:
    """Even one whose own checksum is right."""
    body = value if isinstance(value, dict) else {"format": 1, "files": value}
    if signed:
        body = {"format": 1, "files": {}, **body}
        body.pop("sha256", None)
        body["sha256"] = hashlib.sha256(to_json(body)).hexdigest()
    (folder / "manifest.json").write_bytes(to_json(body))
    classified(lambda: check_files(folder))
    (folder / "manifest.json").write_bytes(to_json(value))
    classified(lambda: check_files(folder))


@given(jsons, st.binary(max_size=40))
@much
def test_stores(folder: Path, value: Any, items: bytes) -> None:
    def signed(name: str) -> list[Any]:
        data = (folder / name).read_bytes()
        return [len(data), hashlib.sha256(data).hexdigest()]

    for name in ("ids.bin", "offsets.bin"):
        (folder / name).write_bytes(bytes(16))
    (folder / "items.jsonl").write_bytes(items)
    kept = {name: signed(name) for name in ("ids.bin", "offsets.bin", "items.jsonl")}
    for meta in (value, {"dtype": "<u2", "files": value}, {"dtype": value, "files": kept}):
        if isinstance(meta, dict):
            meta.pop("sha256", None)
            meta = {**meta, "sha256": _sha256(meta)}
        (folder / "meta.json").write_text(json.dumps(meta))
        classified(lambda: Store(folder))


@given(
    value=jsons,
    field=st.sampled_from(
        [
            "",
            "task",
            "model",
            "train",
            "tokenizer",
            "created",
            "task_options",
            "format",
            "data",
            "plan",
        ]
    ),
)
@much
def test_configs_of_runs(trained: Trained, value: Any, field: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "run"
        path.mkdir()
        config = json.loads((trained.path / "config.json").read_bytes())
        written = {**config, field: value} if field else value
        (path / "config.json").write_text(json.dumps(written))
        shutil.copy(trained.path / "tokenizer.json", path)
        run = classified(lambda: Run(path))
        if run:
            for read in (run.model_config, run.train_config, run.task, run.tokenizer):
                classified(read)
            classified(run.status)


@given(st.lists(st.dictionaries(words, jsons, max_size=3), max_size=4), st.binary(max_size=30))
@much
def test_logs(folder: Path, entries: list[dict[str, Any]], tail: bytes) -> None:
    (folder / "log.jsonl").write_bytes("".join(map(log_line, entries)).encode() + tail)
    classified(lambda: list(read_log(folder / "log.jsonl")))


@pytest.mark.parametrize("kind", sorted(names("tokenizers")))
def test_tokenizers_state(kind: str) -> None:
    @given(jsons)
    @much
    def reads(state: Any) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "run"
            path.mkdir()
            config = {"format": 1, "created": "", "tokenizer": {"kind": kind}}
            (path / "config.json").write_text(json.dumps(config))
            (path / "tokenizer.json").write_text(json.dumps(state))
            classified(Run(path).tokenizer)

    reads()
