"""Every way to say where data is, read in process and through the command line."""

from __future__ import annotations

import gc
import gzip
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Tfm
from helpers import prose

from tfm.core.data.byte_stream import ByteStream
from tfm.core.data.source import Source
from tfm.core.errors import DataError, UsageError
from tfm.tasks._text.reading import read as read_text
from tfm.tasks.text import TextOptions, TextTask


@pytest.fixture(autouse=True)
def unread() -> Iterator[None]:
    """`datasets` leaves a file open where its rows are not read to the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


LINES = ["one fish", "two fish", 'naïve, "quoted" fish', "blue\nfish"]


def read(*paths: object) -> bytes:
    """All bytes that these arguments of --data name."""
    stream = ByteStream(Source(tuple(map(str, paths))).files())
    return stream.read(0, len(stream))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """a.txt, b.txt, sub/c.txt, z.txt.gz; and what is hidden."""
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "sub/c.txt", ".hidden.txt", ".git"):
        (folder / name).write_text(f"<{name}>")
    with gzip.open(folder / "z.txt.gz", "wb") as packed:
        packed.write(b"<z.txt>")
    return folder


def values(source: Source) -> list[str]:
    """The items of a table."""
    items = read_text(source, "record")
    return [items.read(index).decode() for index in range(len(items.spans))]


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as .jsonl, .csv, .parquet, or the first two packed."""
    import csv
    import io

    import pyarrow
    import pyarrow.parquet

    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    out = io.StringIO(newline="")
    if kind == "csv":
        table = csv.DictWriter(out, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    else:
        out.write("".join(json.dumps(row) + "\n" for row in rows))
    data = out.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


TABLES = ["rows.jsonl", "rows.csv", "rows.parquet", "rows.jsonl.gz", "rows.csv.gz"]


# -- bytes ---------------------------------------------------------------------------------------


def test_files_in_the_order_given(files: Path) -> None:
    assert read(files / "b.txt", files / "a.txt") == b"<b.txt><a.txt>"


def test_a_folder_is_its_files_by_name_and_hidden_ones_are_not_data(files: Path) -> None:
    assert read(files) == b"<a.txt><b.txt><sub/c.txt><z.txt>"


def test_a_glob_is_what_it_matches(files: Path) -> None:
    assert read(files / "*.txt") == b"<a.txt><b.txt>"
    assert read(files / "**" / "*.txt") == b"<a.txt><b.txt><sub/c.txt>"


def test_a_file_named_twice_is_read_once(files: Path) -> None:
    assert read(files / "b.txt", files, files / "*.txt") == b"<b.txt><a.txt><sub/c.txt><z.txt>"


def test_a_name_with_the_signs_of_a_glob_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "what [1] is*.txt"
    path.write_text("this")
    assert read(path) == b"this"


def test_bytes_are_found_across_files(files: Path) -> None:
    stream = ByteStream(Source((str(files),)).files())
    whole = stream.read(0, len(stream))
    for start in range(len(stream)):
        for stop in range(start, len(stream)):
            assert stream.read(start, stop) == whole[start:stop]
    assert stream.where(8) == (str(files / "b.txt"), 1)


@pytest.mark.parametrize("name", ["nothing.txt", "no/*.txt", "empty"])
def test_what_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=rf"--data .*{name.replace('*', '.')}: (no|an empty)"):
        Source((str(tmp_path / name),)).files()


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip"])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "prose.txt.gz"
    data = bytearray(gzip.compress(prose(4000).encode()))
    if damage == "flipped":
        data[len(data) // 2] ^= 0x10
    path.write_bytes({"cut": data[:-20], "flipped": data, "no gzip": b"plain text"}[damage])
    with pytest.raises(DataError, match=r"prose\.txt\.gz: not a complete gzip file"):
        read(path)


# -- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_a_column_of_a_table(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path / name, [{"id": i, "said": line} for i, line in enumerate(LINES)])
    source = Source((str(path),), "said")
    assert source.is_table()
    assert values(source) == LINES


@pytest.mark.parametrize("name", TABLES)
def test_a_wrong_column_names_those_there_are(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path / name, [{"id": 1, "said": "a"}, {"id": 2, "said": "b"}])
    for column in ("text", None):
        with pytest.raises(DataError, match=r"no column 'text' in row 1; .*--column: id, said"):
            values(Source((str(path),), column))


def test_the_column_text_or_the_only_one_needs_no_name(tmp_path: Path) -> None:
    one = write_table(tmp_path / "one.csv", [{"said": "a"}, {"said": "b"}])
    two = write_table(tmp_path / "two.jsonl", [{"id": 1, "text": "c"}, {"id": 2, "text": "d"}])
    assert values(Source((str(one),))) == ["a", "b"]
    assert values(Source((str(two),))) == ["c", "d"]
    assert values(Source((str(two), str(one)))) == ["c", "d", "a", "b"]


def test_an_empty_cell_is_no_item(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.jsonl", [{"text": "a"}, {"text": None}, {"text": "b"}])
    assert values(Source((str(path),))) == ["a", "b"]


def test_a_hub_dataset_may_be_a_folder_here(tmp_path: Path) -> None:
    write_table(tmp_path / "train.parquet", [{"said": line} for line in LINES])
    source = Source((f"hf:{tmp_path}",), "said")
    assert source.is_table()
    assert values(source) == LINES


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet", "t.csv"])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'\xff\xfe{"text": "a\x00')
    with pytest.raises(
        DataError, match=rf"{name}(, line 1)?: not (readable as a table|JSON|UTF-8 text)"
    ):
        values(Source((str(tmp_path / name),)))


# -- through the command line --------------------------------------------------------------------

QUICK = ("--size", "nano", "--steps", 2, "--context", 16, "--tokenizer", "byte", "-q", "--json")


def trained_on(tfm: Tfm, *args: object, stdin: bytes | None = None) -> dict[str, Any]:
    """How the run came to its data, and how many units are held out."""
    scores = tfm("train", *args, *QUICK, stdin=stdin).json()
    config = json.loads((tfm.folder / scores["run"] / "config.json").read_text())
    return {**config["data"], "units": scores["units"], "task": scores["task"]}


def test_trains_on_files_folders_and_globs_together(tfm: Tfm, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text("x" * 500)
    (tmp_path / "more.txt").write_text("y" * 500)
    found = trained_on(tfm, "--data", "texts", "--data", "texts/*.txt", "--data", "more.txt")
    assert found["units"] == 200, "a tenth of four files"


def test_trains_on_packed_text(tfm: Tfm, tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"all work and no play\n" * 50))
    found = trained_on(tfm, "--data", "a.txt.gz")
    assert (found["task"], found["units"]) == ("text", 105)


def test_trains_on_standard_input(tfm: Tfm) -> None:
    found = trained_on(tfm, "--data", "-", stdin=b"all work and no play\n" * 50)
    assert (found["task"], found["paths"], found["units"]) == ("text", ["-"], 105)


def test_trains_on_columns(tfm: Tfm, tmp_path: Path) -> None:
    names = ["rows.jsonl", "rows.csv.gz", "rows.parquet"]
    for name in names:
        write_table(tmp_path / name, [{"id": i, "said": f"fish {i:04}"} for i in range(100)])
    named = [word for name in names for word in ("--data", name)]
    found = trained_on(tfm, *named, "--column", "said")
    assert (found["task"], found["units"]) == ("text", 270)
    assert "--column: id, said" in tfm.error("train", *named, *QUICK)


def test_the_column_of_a_run_is_its_column_for_all(tfm: Tfm, tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [{"id": i, "said": f"fish {i:04}"} for i in range(100)])
    trained_on(tfm, "--data", "a.csv", "--column", "said", "--run", "run")
    assert tfm("eval", "run", "--data", "a.csv", "--json").json()["units"] == 900
    scored = tfm("score", "run", "a.csv").out.splitlines()
    assert [json.loads(line)["item"] for line in scored[:2]] == ["fish 0000", "fish 0001"]
    assert "no column 'what'" in tfm.error("eval", "run", "--data", "a.csv", "--column", "what")


def test_a_table_that_is_none_is_one_line(tfm: Tfm, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a b"}\n{bad\n')
    result = tfm("train", "--data", "a.jsonl", *QUICK, code=2)
    assert result.err.count("\n") == 1 and "a.jsonl, line 2: not JSON" in result.err


def test_trains_on_a_hub_dataset_that_is_here(tfm: Tfm, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_table(tmp_path / "set/train.parquet", [{"text": f"fish {i:04}"} for i in range(100)])
    found = trained_on(tfm, "--data", f"hf:{tmp_path / 'set'}", "--each", "record")
    assert found["paths"] == [f"hf:{tmp_path / 'set'}"]
    assert found["units"] % 9 == 0, "whole records"


def test_what_is_held_out_may_be_named(tfm: Tfm, tmp_path: Path) -> None:
    for name, size in (("train", 900), ("valid", 300), ("test", 200)):
        (tmp_path / f"{name}.txt").write_text("fish\n" * (size // 5))
    found = trained_on(tfm, "--data", "train.txt", "--valid", "valid.txt", "--test", "test.txt")
    assert found["units"] == 200, "the final score is of --test"
    assert tfm("eval", "--split", "valid", "--json").json()["units"] == 300
    assert "valid" in tfm.error("eval", "--split", "train")


def test_a_damaged_gzip_file_trains_nothing(tfm: Tfm, tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(prose(4000).encode())[:-20])
    assert "a.txt.gz: not a complete gzip file" in tfm.error("train", "--data", "a.txt.gz", *QUICK)
    assert not (tmp_path / "runs").exists()


def test_a_column_of_no_table_is_refused(text: Path) -> None:
    with pytest.raises(UsageError, match="--column said: needs rows"):
        TextTask(TextOptions()).items(Source((str(text),), "said"))
