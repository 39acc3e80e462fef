"""Pairs of a source and a target: how they are read, split, scored, and mapped line by line."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from conftest import Tfm, Trained
from dateutil import parser
from filelock import FileLock

from tfm.core.data.source import Source
from tfm.core.errors import ConfigError, DataError, UsageError
from tfm.core.runs.run import Run
from tfm.tasks._pairs.dates import dates, formats
from tfm.tasks._pairs.metrics import baselines, edit_distance, metrics
from tfm.tasks._pairs.reading import Pairs, read_pairs
from tfm.tasks.pairs import PairsTask, texts_of

SOME = [("ein Hund", "a dog"), ("zwei Hunde", "two dogs"), ('"drei', 'three "cats"'), ("ü", "ue")]


def pairs_of(*paths: Path, names: tuple[str | None, str | None] = (None, None)) -> list[object]:
    return list(read_pairs(Source(tuple(map(str, paths))), names))


# -- reading -------------------------------------------------------------------------------------


def written(folder: Path, kind: str) -> tuple[Path, ...]:
    """The files that hold SOME in a kind of data."""
    lines = [f"{s}\t{t}" for s, t in SOME]
    path = folder / f"data.{kind}"
    if kind in ("tsv", "txt"):
        path.write_text("\n".join(lines) + "\n")
    elif kind == "heading.tsv":
        path.write_text("id\ttarget\tsource\n" + "".join(f"1\t{t}\t{s}\n" for s, t in SOME))
    elif kind == "crlf.tsv":
        path.write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n\r\n").encode())
    elif kind == "tsv.gz":
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"target": t, "source": s}) + "\n" for s, t in SOME))
    elif kind in ("csv", "parquet"):
        import pandas as pd

        table = pd.DataFrame(SOME, columns=["source", "target"])
        if kind == "csv":
            table.to_csv(path, index=False)
        else:
            table.to_parquet(path)
    else:
        (folder / "a.de").write_text("\n".join(s for s, _ in SOME) + "\n")
        (folder / "b.en").write_text("\n".join(t for _, t in SOME))
        return folder / "a.de", folder / "b.en"
    return (path,)


KINDS = ("tsv", "txt", "heading.tsv", "crlf.tsv", "tsv.gz", "jsonl", "csv", "parquet", "parallel")


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_the_same_in_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    assert pairs_of(*written(tmp_path, kind)) == SOME


def test_columns_have_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("de,n,en\nHund,1,dog\nKatze,2,\n,3,cow\n")
    found = read_pairs(Source((str(path),)), ("de", "en"))
    assert list(found) == [("Hund", "dog")] and found.skipped == 2
    with pytest.raises(DataError, match="no column 'source'; choose one with --source: de, n, en"):
        pairs_of(path)
    with pytest.raises(DataError, match="no column 'fr'; choose one with --target"):
        pairs_of(path, names=("de", "fr"))
    two = tmp_path / "two.csv"
    two.write_text("de,en\nHund,dog\n")
    assert pairs_of(two) == [("Hund", "dog")], "the only two columns, in their order"
    (tmp_path / "two.tsv").write_text("de\ten\tn\nHund\tdog\t1\n")
    assert pairs_of(tmp_path / "two.tsv", names=("en", "de")) == [("dog", "Hund")]
    with pytest.raises(DataError, match="no column 'fr'"):
        pairs_of(tmp_path / "two.tsv", names=("fr", "de"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a\tb\nc\n", "line 2: 1 cells, need 2"),
        (b"a\tb\nc\td\te\n", "line 2: 3 cells, need 2"),
        (b"a\tb\nc\t\xff\n", "line 2: not UTF-8 text"),
        (b"", "no pairs in it"),
        (b"\n\n", "no pairs in it"),
    ],
)
def test_what_is_no_pair_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "p.tsv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        pairs_of(tmp_path / "p.tsv")


def test_parallel_files_have_as_many_lines(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b").write_text("eins\nzwei\ndrei\n")
    with pytest.raises(DataError, match="a has 2 lines, .*b 3: parallel files need as many"):
        pairs_of(tmp_path / "a", tmp_path / "b")


def test_equal_sources_stay_on_one_side_of_the_split() -> None:
    draw = random.Random(0)
    sources = [str(draw.randrange(100)) for _ in range(1000)]
    train, held = Pairs(sources, [f"{n}" for n in range(1000)], "some").split(0.2, "split")
    assert not set(train.sources) & set(held.sources) and len(train) + len(held) == 1000
    assert 100 < len(held) < 300
    other, _ = Pairs(sources, [""] * 1000, "some").split(0.2, "halves")
    assert other.sources != train.sources
    with pytest.raises(DataError, match="one source"):
        Pairs(["a", "a"], ["b", "c"], "some").split(0.5, "split")


# -- generated dates -------------------------------------------------------------------------------


def test_dates_are_what_a_parser_reads() -> None:
    """dateutil, told which number is the day; it takes two-digit years to be near today."""
    kinds = set()
    for text, iso in dates(2000):
        plain = text.replace("the ", "").replace(" of", "")
        found = parser.parse(plain, dayfirst="." in text).date()
        year = iso[:4] if text[-4:].isdigit() or text[:4].isdigit() else None
        assert found.isoformat()[4:] == iso[4:] and found.year % 100 == int(iso[2:4]), text
        assert year in (None, str(found.year)) and 1950 <= int(iso[:4]) <= 2049
        kinds.add("".join("9" if c.isdigit() else "x" if c.isalpha() else c for c in text))
    assert len(formats(found)) == 16 and len(kinds) > 40
    assert list(dates(10)) == list(dates(10))


# -- metrics -------------------------------------------------------------------------------------


def plain_distance(one: str, other: str) -> int:
    """Wagner & Fischer 1974, cell by cell."""
    rows = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i in range(len(one) + 1):
        for j in range(len(other) + 1):
            if not i or not j:
                rows[i][j] = i + j
            else:
                changed = rows[i - 1][j - 1] + (one[i - 1] != other[j - 1])
                rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, changed)
    return rows[-1][-1]


def test_edits_are_counted_as_by_the_plain_table() -> None:
    draw = random.Random(1)
    for _ in range(300):
        one, other = ("".join(draw.choices("abü", k=draw.randrange(9))) for _ in range(2))
        assert edit_distance(one, other) == plain_distance(one, other), (one, other)
    assert edit_distance("kitten", "sitting") == 3


def test_metrics_of_known_predictions() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    true, predicted = ["the cat sat", "a dog"], ["the cat sat", "a hog"]
    found = metrics(predicted, true)
    assert found["exact"] == 0.5 and found["edits"] == pytest.approx(1 / 16)
    assert found["chrf"] == sacrebleu.corpus_chrf(predicted, [true]).score
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predicted, [true]).score)
    assert set(metrics(predicted, true, ("exact",))) == {"exact"}
    assert metrics([], [])["exact"] == 0


def test_baselines_are_the_source_the_usual_target_and_the_nearest() -> None:
    train = Pairs(["red car", "blue car", "tree"], ["X", "Y", "X"], "some")
    held = [("blue cars", "Y"), ("X", "X")]
    found = baselines(train, held, ("exact",), quick=False)
    assert found == {"copy_exact": 0.5, "frequent_exact": 0.5, "nearest_exact": 1.0}
    assert set(baselines(train, held, ("exact",), quick=True)) == {"copy_exact", "frequent_exact"}
    assert set(baselines(None, held, ("exact",), quick=False)) == {"copy_exact"}


def test_a_protocol_names_a_search() -> None:
    task = PairsTask(PairsTask.Options())
    assert task.model_metrics_tokens([], "beam-2--0.5") == 0
    for wrong in ("beam", "beam-x", "beam-2-0.6-1", "rolling", "beam-0", "beam-2-nan"):
        with pytest.raises((UsageError, ConfigError), match="beam|length-penalty"):
            task.model_metrics_tokens([], wrong)


# -- commands ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Trained:
    """Letters to upper case: learned in a moment, once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "pairs"
    with FileLock(f"{folder}.lock"):
        scores = folder / "scores.json"
        if not scores.exists():
            scores.write_text(json.dumps(train_run_in(folder)))
        return Trained(folder / "run", json.loads(scores.read_text()))


def train_run_in(folder: Path) -> dict[str, object]:
    """The scores of a training."""
    folder.mkdir()
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdef", k=draw.randint(1, 6))) for _ in range(1500)]
    (folder / "p.tsv").write_text("".join(f"{w}\t{w.upper()}\n" for w in sorted(set(words))))
    result = Tfm(folder)(
        *("train", "--task", "pairs", "--data", "p.tsv", "--arch", "encoder-decoder"),
        *("--size", "nano", "--set", "train.batch=32", "--steps", 300, "--run", "run", "--json"),
    )
    scores: dict[str, object] = result.json()
    return scores


def test_it_learns_them(run: Trained) -> None:
    assert run.scores["exact"] > 0.8 > 0.1 > run.scores["edits"]
    assert run.scores["floor"]["copy_exact"] == 0
    assert run.scores["unit"] == "byte" and run.scores["bits_per_byte"] < 0.5
    assert run.scores["chrf"] > 80


def test_lines_become_lines(run: Trained) -> None:
    tfm = Tfm(run.path.parent)
    lines = ["abc", "fade", "", "dad"] * 20
    out = tfm("sample", "run", stdin="".join(f"{line}\n" for line in lines).encode()).text
    assert out.splitlines()[:2] == ["ABC", "FADE"] and len(out.splitlines()) == 80
    assert tfm("sample", "run", "-p", "bead").text == "BEAD"
    again = tfm("sample", "run", "--seed", 7, stdin=b"abc\nfade\n").text
    assert again.splitlines() == ["ABC", "FADE"], "the likeliest target, whatever the seed"
    hot = ("sample", "run", "--temperature", 4, "-p", "abcdef")
    assert len({tfm(*hot, "--seed", seed).text for seed in range(4)}) > 1
    assert "give a source" in tfm.error("sample", "run")


def test_beams_are_the_best_ones_with_their_scores(run: Trained) -> None:
    tfm = Tfm(run.path.parent)
    beam = ("--beam", 4, "--length-penalty", 0.6)
    best = tfm("sample", "run", *beam, stdin=b"abc\nfade\n").text
    assert best.splitlines() == ["ABC", "FADE"]
    records = tfm("sample", "run", *beam, "-n", 3, "--json", stdin=b"abc\nfade\n").lines()
    assert [r["prompt"] for r in records] == ["abc"] * 3 + ["fade"] * 3
    for three in (records[:3], records[3:]):
        scores = [record["score"] for record in three]
        assert scores == sorted(scores, reverse=True) and len({r["text"] for r in three}) == 3
        for record in three:
            length = len(record["tokens"])
            expected = sum(record["logprobs"]) / ((5 + length) / 6) ** 0.6
            assert record["score"] == pytest.approx(expected)
            assert record["finish_reason"] == "end"
    assert tfm("sample", "run", "--beam", 2, "-p", "abc").text == "ABC"
    scored = tfm("eval", "run", *beam, "--json").json()
    assert scored["protocol"] == "beam-4-0.6" and scored["exact"] >= run.scores["exact"] - 0.02
    assert scored["nll"] == pytest.approx(run.scores["nll"])
    assert scored["floor"] == run.scores["floor"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--beam", 2, "-n", 3), "-n 3: a beam of 2 finds no more"),
        (("--beam", 2, "--top-k", 3), "--top-k and --beam exclude each other"),
        (("--beam", 2, "--temperature", 0.5), "--temperature and --beam exclude each other"),
        (("--length-penalty", 1), "--length-penalty: needs --beam"),
        (("--beam", 0), "Invalid value for '--beam'"),
        (("-p", "a" * 500), "a source of 501 tokens does not fit the context of"),
        (("--beam", 2, "-p", "a" * 500), "a source of 501 tokens does not fit the context of"),
        (("--beam", 2, "--length-penalty", 1e9), "--length-penalty: must be -10 to 10"),
    ],
    ids=str,
)
def test_wrong_flags_are_one_line(run: Trained, flags: tuple[object, ...], says: str) -> None:
    prompt = () if "-p" in flags else ("-p", "abc")
    assert says in Tfm(run.path.parent).error("sample", "run", *prompt, *flags)


def test_a_beam_of_text_is_no_less_likely_than_greedy(trained: Trained, tfm: Tfm) -> None:
    """A beam of one is greedy decoding, which is not what a text is sampled by."""
    prompt = ("sample", trained.path, "-p", "the quick", "--length", 12, "--json")
    greedy, one, four = (
        tfm(*prompt, *flags).json() for flags in (("--greedy",), ("--beam", 1), ("--beam", 4))
    )
    assert greedy["tokens"] == one["tokens"]
    assert sum(four["logprobs"]) >= sum(greedy["logprobs"]) - 1e-4
    assert len(four["tokens"]) == 12


@pytest.mark.parametrize("flags", [(), ("--beam", 2), ("--strict",)], ids=str)
def test_a_long_source_is_named_after_the_answers_before_it(
    run: Trained, flags: tuple[object, ...]
) -> None:
    lines = b"abc\n" + b"a" * 500 + b"\nfade\n"
    result = Tfm(run.path.parent)("sample", "run", *flags, stdin=lines, code=2)
    assert result.text == "ABC\n"
    assert "standard input, line 2: a source of 501 tokens does not fit" in result.err
    assert "only the last ones" not in result.err


def test_beams_are_for_pairs(run: Trained, tfm: Tfm) -> None:
    beside = Tfm(run.path.parent)
    assert "--length-penalty: needs --beam" in beside.error("eval", "run", "--length-penalty", 1)
    said = beside.error("eval", "run", "--beam", 2, "--protocol", "greedy")
    assert "exclude each other" in said
    assert "must be greedy, beam-N" in beside.error("eval", "run", "--protocol", "last")


def test_given_pairs_are_scored_and_tokenized(run: Trained) -> None:
    tfm = Tfm(run.path.parent)
    (tfm.folder / "some.tsv").write_text("abc\tABC\nabc\tABD\n")
    right, wrong = tfm("score", "run", "some.tsv").lines()
    assert right["item"] == "abc\tABC" and right["units"] == 3 and right["tokens"] == 4
    assert right["nll"] < 1 < wrong["nll"]
    ids = tfm("tokenize", "run", "some.tsv").out
    assert tfm("detokenize", "run", stdin=ids).text == "abc\tABC\nabc\tABD\n"
    evaluated = tfm("eval", "run", "--data", "some.tsv", "--json").json()
    assert evaluated["exact"] == 0.5
    assert evaluated["nll"] == pytest.approx(right["nll"] + wrong["nll"], rel=1e-4)


@pytest.mark.parametrize("arch", ["transformer", "gru"])
def test_a_decoder_reads_the_source_as_a_prefix(run: Trained, arch: str) -> None:
    tfm = Tfm(run.path.parent)
    train = ("train", "--task", "pairs", "--data", "p.tsv", "--arch", arch, "--size", "nano")
    batch = ("--set", "train.batch=16")
    scores = tfm(*train, *batch, "--steps", 30, "--run", arch, "--json").json()
    assert 0 <= scores["exact"] and scores["edits"] < scores["floor"]["copy_edits"]
    best = tfm("sample", arch, "--beam", 3, "--json", "-n", 3, stdin=b"abc\n").lines()
    assert len({record["text"] for record in best}) == 3
    opened = Run(tfm.folder / arch)
    sequence = opened.heldout("valid")[0]
    source, target = texts_of(sequence, opened.tokenizer())
    assert target == source.upper() and sequence.given == len(source) + 1
    assert (sequence.target_weight()[: sequence.given] == 0).all(), "no loss on the source"


@pytest.mark.parametrize("arch", ["encoder-decoder", "transformer"])
def test_a_context_that_is_too_short_is_named(run: Trained, arch: str) -> None:
    tfm = Tfm(run.path.parent)
    train = ("train", "--task", "pairs", "--data", "p.tsv", "--steps", 1, "--context", 5)
    said = tfm.error(*train, "--arch", arch)
    assert "must be seen whole: need --context" in said


def test_parallel_files_are_trained_on_and_resumed(tfm: Tfm) -> None:
    words = [f"w{number}" for number in range(60)]
    (tfm.folder / "a.txt").write_text("\n".join(words) + "\n")
    (tfm.folder / "b.txt").write_text("\n".join(w[::-1] for w in words) + "\n")
    (tfm.folder / "v.jsonl").write_text('{"source": "x1", "target": "1x"}\n')
    data = ("--task", "pairs", "--data", "a.txt", "--data", "b.txt", "--valid", "v.jsonl")
    train = ("train", *data, "--arch", "vaswani", "--size", "nano", "--steps", 2)
    scores = tfm(*train, "--run", "r", "--json").json()
    assert scores["units"] == 2
    tfm("train", "--init", "r", *data, "--steps", 1, "--run", "fine")
    said = tfm.error("train", "--init", "r", *data[2:], "--arch", "vaswani", "--steps", 1)
    assert "--arch and --init exclude each other" in said
    tfm("verify", "r")


def test_early_stopping_selects_on_one_half(run: Trained) -> None:
    tfm = Tfm(run.path.parent)
    train = ("train", "--task", "pairs", "--data", "p.tsv", "--size", "nano", "--steps", 4)
    scores = tfm(*train, "--patience", 2, "--run", "patient", "--json").json()
    assert scores["split"] == "report" and scores["exact"] is not None


def test_the_default_data_is_generated_and_said_to_be(tfm: Tfm) -> None:
    result = tfm("train", "--task", "pairs", "--size", "nano", "--steps", 1, "--holdout", "0.001")
    assert "40,000 generated dates in sixteen formats" in result.err
    assert "->" in result.err.partition("sample:")[2]
