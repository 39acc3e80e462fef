"""Values of tables as they stand, whatever the table comes in; what is read as text is said."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Tfm
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm.core.data.source import Source
from tfm.core.data.tables import SEPARATORS
from tfm.core.errors import DataError, UsageError
from tfm.core.plugins import guess_task
from tfm.tasks._text.reading import read
from tfm.tasks._text.spans import Spans

# what a reader that guesses types changes
ODD = [
    *("007", "1e5", "NA", "null", "1.10", "None", "true", "NaN", "inf", "-0", "0x1F", "1_000"),
    *("2024-01-01T10:00:00+02:00", "12:30", "01/02/03", " spaces ", "\ttab", 'a "quoted" word'),
    *("naïve, ﬁnal", "two\nlines", "cr\r\nlf", "=1+1", "[1, 2]", '{"a": 1}', "\\n", "'", "ß\u200b"),
]


def items(spans: Spans) -> list[bytes]:
    return [spans.read(number) for number in range(len(spans.spans))]


def values(path: Path | str, column: str | None = None, each: str = "record") -> list[str]:
    return [item.decode() for item in items(read(Source((str(path),), column), each))]


def as_csv(texts: list[str], separator: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator)
    writer.writerow(["id", "said"])
    writer.writerows([str(number), text] for number, text in enumerate(texts))
    return out.getvalue().encode()


def as_json_lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"id": 1, "said": text}).encode() + b"\n" for text in texts)


def as_json(texts: list[str]) -> bytes:
    return json.dumps([{"id": 1, "said": text} for text in texts], indent=1).encode()


def as_parquet(texts: list[str]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    table = pyarrow.table({"id": list(range(len(texts))), "said": texts})
    pyarrow.parquet.write_table(table, out)
    return out.getvalue()


def as_zst(data: bytes) -> bytes:
    import pyarrow

    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as packed:
        packed.write(data)
    return bytes(out.getvalue())


WRITERS: dict[str, Callable[[list[str]], bytes]] = {
    ".csv": as_csv,
    ".CSV": as_csv,
    ".tsv": lambda texts: as_csv(texts, "\t"),
    ".jsonl": as_json_lines,
    ".JSONL": as_json_lines,
    ".ndjson": as_json_lines,
    ".json": as_json,
    ".parquet": as_parquet,
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": as_zst,
}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("kind", WRITERS)
def test_odd_values_come_back_character_for_character(
    tmp_path: Path, kind: str, packed: str
) -> None:
    path = tmp_path / f"what [1]::is*{kind}{packed}"
    path.write_bytes(PACKERS[packed](WRITERS[kind](ODD)))
    assert values(path, "said") == ODD


@given(texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=5))
@settings(max_examples=30)
@pytest.mark.parametrize("kind", WRITERS)
def test_any_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, kind: str, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("table") / f"t{kind}"
    path.write_bytes(WRITERS[kind](texts))
    assert values(path, "said") == texts


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_csv_file_has_the_separator_of_its_heading(tmp_path: Path, separator: str) -> None:
    (tmp_path / "t.csv").write_bytes(as_csv(ODD, separator))
    assert values(tmp_path / "t.csv", "said") == ODD


def test_other_values_of_json_are_written_as_json(tmp_path: Path) -> None:
    as_they_stand = ["0", "1.50", "-0", "1e5", "0.1000000000000000055511", "9" * 5000, "true"]
    as_they_stand += ['["a", 1.10]', '{"é": null}', "1E400"]
    lines = [f'{{"id": 1.5, "said": {value}}}' for value in as_they_stand]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert values(tmp_path / "t.jsonl", "said") == as_they_stand


def test_one_object_in_a_json_file_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"text": "one"}')
    (tmp_path / "u.json").write_text(json.dumps({"said": "two", "n": 1}, indent=2))
    assert values(tmp_path / "t.json") == ["one"]
    assert values(tmp_path / "u.json", "said") == ["two"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    twice = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="two columns have the name 'text'"):
        values(tmp_path / "t.parquet")


def test_a_heading_may_have_lines_and_come_late(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('\n\n"a\nb";text\n1;x\n')
    assert values(tmp_path / "t.csv") == ["x"]
    (tmp_path / "e.csv").write_text(",text\n0,a\n")
    assert values(tmp_path / "e.csv", "") == ["0"], "the column without a name"


def test_bytes_are_read_as_they_stand_unless_rows_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\n007\n")
    source = Source((str(tmp_path / "t.csv"),))
    assert items(read(source, "stream", rows_unasked=False)) == [b"text\n007\n"]
    assert items(read(Source(source.paths, "text"), "stream", rows_unasked=False)) == [b"007"]
    assert items(read(source, "record", rows_unasked=False)) == [b"007"]


def test_a_broken_table_is_an_error_beside_texts_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "t.jsonl").write_text('{"text": "first"},\n')
    with pytest.raises(DataError, match=r"t\.jsonl, line 1: not JSON"):
        read(Source((str(tmp_path),)), "stream")


def test_types_of_parquet_are_readable_text(tmp_path: Path) -> None:
    import datetime
    import decimal

    import pyarrow
    import pyarrow.parquet

    for number, (value, text) in enumerate(
        [
            (b"\xff\x00", b"\xff\x00"),
            (datetime.date(2024, 1, 31), b"2024-01-31"),
            (decimal.Decimal("1.10"), b"1.10"),
            ([1, 2], b"[1, 2]"),
            ([b"ab"], b'["ab"]'),
        ]
    ):
        path = tmp_path / f"{number}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"said": [value, None]}), path)
        assert items(read(Source((str(path),)), "record")) == [text]


@pytest.mark.parametrize(
    "name, data, says",
    [
        ("t.jsonl", '{"text": "a"}\n[1]\n', "row 2: a list, not a JSON object"),
        ("t.jsonl", '{"text": "a"}\n{"no": 1}\n', "no column 'text' in row 2"),
        ("t.jsonl", '{"text": "\\ud800"}\n', r"row 1: half a character \(\\ud800\)"),
        ("t.jsonl", "[" * 100_000, "line 1: JSON that is nested too deeply"),
        ("t.json", "[{" + "[" * 100_000, "t.json: (not JSON|JSON that is nested too deeply)"),
        ("t.csv", "text,id\na,1,2\n", "line 2: more cells than the heading"),
        ("t.csv", "text,text\na,1\n", "two columns have the name 'text'"),
        ("t.csv", 'text\n"a', r"t.csv, line 2: not readable as a table .* balanced"),
        ("t.tsv", 'text\tn\n"quoted" word\t1\n', r"t.tsv, line 2: .*'tab' expected after"),
        (
            "t.jsonl",
            '{"id": 1}\n{"id": 2, "text": "a"}\n',
            "row 2 has other columns than the first",
        ),
        ("t.csv", "text\n", "contains no text"),
        ("t.parquet", "PAR1", "t.parquet: not readable as a table"),
        ("t.7z", "7z", "does not read .7z files"),
        ("t.txt.xz", "plain", "not a complete xz file"),
        ("t.txt.zst", "plain", "not a complete zstd file"),
        ("t.zip", "plain", "a damaged archive"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path: Path, name: str, data: str, says: str) -> None:
    (tmp_path / name).write_text(data)
    with pytest.raises(DataError, match=says) as failed:
        read(Source((str(tmp_path / name),)), "stream")
    assert "\n" not in str(failed.value) and name in str(failed.value)


# -- folders and archives ------------------------------------------------------------------------


def fill(folder: Path) -> dict[str, str]:
    """Tables and texts, some packed, and what their text is."""
    folder.mkdir()
    (folder / "a.txt").write_text("plain\n")
    (folder / "b.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"text": null}\n')
    (folder / "c.CSV.gz").write_bytes(gzip.compress(b"id,text\n1,three\n"))
    (folder / "d.json").write_text('{"name": "settings"}')
    (folder / "e.csv").write_text("x,y\n1,2\n")
    return {"files": 'plain\n{"name": "settings"}x,y\n1,2\n', "rows": "onetwothree"}


def test_a_mixed_folder_is_read_as_what_it_holds(tmp_path: Path) -> None:
    text = fill(tmp_path / "mixed")
    spans = read(Source((str(tmp_path / "mixed"),)), "stream")
    assert b"".join(items(spans)).decode() == text["files"] + text["rows"]
    assert spans.description is not None
    assert spans.description.record == {
        "column": "text",
        "rows": 3,
        "rows_without_value": 1,
        "files_as_text": 3,
    }
    said = " ".join(spans.description.lines)
    assert all(name in said for name in ("b.jsonl", "c.CSV.gz", "d.json", "e.csv"))
    assert spans.stream.where(0)[0].endswith("a.txt")
    assert spans.stream.where(len(spans.stream) - 1)[0].endswith("c.CSV.gz"), "rows have files too"


def test_a_folder_of_tables_has_rows_only(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.ndjson", "c.JSONL"):
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n")
    assert values(tmp_path, each="stream") == ["a.jsonl", "b.ndjson", "c.JSONL"]
    (tmp_path / "d.csv").write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match=r"d\.csv: no column 'text' in row 1; .*--column: x, y"):
        for path in sorted(tmp_path.iterdir()):  # alone, too
            values(path)


def test_where_rows_are_asked_for_text_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "mixed")
    with pytest.raises(UsageError, match=r"--column text: needs rows .*a\.txt is none"):
        read(Source((str(tmp_path / "mixed"),), "text"), "stream")
    with pytest.raises(UsageError, match=r"--each record: needs rows .*a\.txt is none"):
        read(Source((str(tmp_path / "mixed"),)), "record")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.zst"])
def test_an_archive_is_the_folder_that_it_holds(tmp_path: Path, kind: str) -> None:
    fill(tmp_path / "mixed")
    (tmp_path / "mixed/__MACOSX").mkdir()
    (tmp_path / "mixed/__MACOSX/a.txt").write_text("junk")
    archive = tmp_path / f"in.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as out:
            for path in sorted((tmp_path / "mixed").rglob("*")):
                out.write(path, path.relative_to(tmp_path))
    else:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode=f"w:{kind[4:].replace('zst', '')}") as tar:
            tar.add(tmp_path / "mixed", "mixed")
        packed = as_zst(data.getvalue()) if kind.endswith("zst") else data.getvalue()
        archive.write_bytes(packed)
    (tmp_path / "mixed/__MACOSX/a.txt").unlink()
    found = read(Source((str(archive),)), "stream")
    assert items(found) == items(read(Source((str(tmp_path / "mixed"),)), "stream"))
    assert found.stream.where(0)[0] == f"{archive}/mixed/a.txt", "no name of a temporary file"


# -- what is guessed -----------------------------------------------------------------------------


def test_the_task_is_that_of_most_bytes(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "LICENSE.txt").write_text("some words " * 20)
    for number in range(4):
        noise = Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3))
        noise.save(tmp_path / f"{number}.png")
    guess = guess_task(Source((str(tmp_path),)))
    assert (guess.task, guess.files) == ("image", 5) and 0.9 < guess.share < 1
    for number in range(300):
        (tmp_path / f"x{number}.txt").write_text("words and words " * 200)
    guess = guess_task(Source((str(tmp_path), str(tmp_path / "LICENSE.txt"))))
    assert guess.task == "text" and 0.5 < guess.share < 1
    (tmp_path / "t.csv").write_text("id,text\n1,5\n2,7\n")
    assert guess_task(Source((str(tmp_path / "t.csv"),))).task == "text"
    (tmp_path / "s.csv").write_text("id,ds,y\nA,2020-01-01,0\nA,2020-02-01,1\n")
    assert guess_task(Source((str(tmp_path / "s.csv"),))).task == "series"


# -- through the command line --------------------------------------------------------------------

QUICK = ("--size", "nano", "--steps", 1, "--context", 16, "--tokenizer", "byte", "-q")


def test_archives_and_parquet_may_be_piped(tfm: Tfm) -> None:
    texts = [f"number {number:03}" for number in range(40)]
    archive, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("t.txt", "\n".join(texts))
    with tarfile.open(fileobj=tar, mode="w") as packed:
        (tfm.folder / "t.txt").write_text("\n".join(texts))
        packed.add(tfm.folder / "t.txt", "t.txt")
    expected = tfm("train", "--data", "t.txt", *QUICK, "--json").json()["units"]
    for data in (archive.getvalue(), tar.getvalue()):
        found = tfm("train", "--data", "-", *QUICK, "--json", stdin=data).json()
        assert (found["task"], found["units"]) == ("text", expected)
        tfm("train", "--resume", "--steps", 2, "-q")
    train = ("train", "--data", "-", "--column", "said", "--each", "record")
    tfm(*train, *QUICK, "--run", "run", stdin=as_parquet(texts))
    scored = tfm("score", "run", "--column", "said", "--tsv", stdin=as_csv(texts)).text
    assert [line.split("\t")[2] for line in scored.splitlines()] == texts


def test_data_that_scores_itself_is_said(tfm: Tfm) -> None:
    (tfm.folder / "t.txt").write_text("some words\n" * 200)
    loud = ("--size", "nano", "--steps", 1, "--tokenizer", "byte")
    done = tfm("train", "t.txt", "--valid", "t.txt", *loud)
    assert "--valid is the training data itself" in done.err


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".json", ".parquet", ".jsonl.gz", ".csv.xz"])
def test_a_table_on_standard_input_is_known_by_its_content(tfm: Tfm, kind: str) -> None:
    texts = [f"number {number:03}" for number in range(40)]
    stem, _, packed = kind[1:].partition(".")
    data = PACKERS[f".{packed}" if packed else ""](WRITERS[f".{stem}"](texts))
    train = ("train", "--data", "-", "--column", "said", "--each", "record", *QUICK)
    tfm(*train, "--run", "run", stdin=data)
    tfm("train", "--resume", "run", "--steps", 2, "-q")
    scored = tfm("score", "run", "-", stdin=data).lines()
    assert [line["item"] for line in scored] == texts
    error = tfm.error("train", "--data", "-", "--column", "no", *QUICK, stdin=data)
    assert "no column 'no'" in error or (stem == "csv" and "--column no: needs rows" in error)


def test_rows_that_are_read_as_text_are_said(tfm: Tfm) -> None:
    data = as_json_lines([f"number {number}" for number in range(40)])
    loud = ("--size", "nano", "--steps", 1, "--tokenizer", "byte")
    assert (
        "read as text, not as rows: standard input"
        in tfm("train", "--data", "-", *loud, stdin=data).err
    )
    (tfm.folder / "t.json").write_text('{"a": 1}\n' + " " * 50)
    assert "read as text, not as rows: t.json" in tfm("train", "--data", "t.json", *loud).err


def test_ids_keep_their_type(tfm: Tfm, trained: Any) -> None:
    prompts = [{"id": value, "prompt": "a"} for value in (0, "0", 1.5, None, "x")]
    data = "".join(json.dumps(each) + "\n" for each in prompts).encode()
    args = ("sample", trained.path, "--json-in", "--json", "--length", 1)
    assert [line["id"] for line in tfm(*args, stdin=data).lines()] == [0, "0", 1.5, None, "x"]
    error = tfm.error(*args, stdin=b"[" * 100_000 + b"\n")
    assert error.startswith("Error: standard input, line 1: must be a JSON object")
