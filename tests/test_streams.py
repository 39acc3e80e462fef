"""The shell's side of a command: closed streams, data from pipes, files that it writes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Tfm, Trained
from helpers import prose, put_tfm_on_path

from tfm.core.errors import TfmError, UsageError
from tfm.core.files import check_output, write_out

pytestmark = pytest.mark.skipif(os.name != "posix", reason="streams and links of POSIX")

QUICK = ("--size", "nano", "--steps", 1, "--tokenizer", "byte", "-q")
VERBS = (
    "train --data f.txt --size nano --steps 1 --tokenizer byte -q",
    "train --data - --size nano --steps 1 --tokenizer byte -q",
    "eval run",
    "score run f.txt",
    "score run",
    "compare run run",
    "sample run -p The --length 3",
    "sample run --length 3",
    "tokenize run f.txt",
    "tokenize run",
    "detokenize run",
    "compress run p.txt -o -",
    "compress run -",
    "decompress run p.tfm -o -",
    "verify run",
    "runs",
    "info run",
    "tasks",
    "completion bash",
    "config",
    "--help",
    "--version",
)


@pytest.fixture
def folder(tfm: Tfm, trained: Trained) -> Path:
    """A run, a text, a compressed file, and `tfm` on the path."""
    put_tfm_on_path(tfm.folder)
    (tfm.folder / "run").symlink_to(trained.path)
    (tfm.folder / "f.txt").write_text(prose(2000))
    (tfm.folder / "p.txt").write_text("the quick")
    tfm("compress", "run", "p.txt", "-o", "p.tfm", "-q")
    return tfm.folder


def shell(folder: Path, script: str) -> subprocess.CompletedProcess[bytes]:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_a_closed_stream_is_empty_silent_or_one_line(folder: Path, verb: str) -> None:
    """Closed input is empty, closed errors are silent, closed output is an error of its own."""
    plain = shell(folder, f"tfm {verb} < /dev/null")
    closed = shell(folder, f"tfm {verb} <&-")
    assert (closed.returncode, closed.stderr) == (plain.returncode, plain.stderr)
    quiet = shell(folder, f"tfm {verb} < /dev/null 2>&-")
    assert quiet.returncode == plain.returncode
    if verb.split()[0] not in ("train", "eval"):  # these tell times
        assert closed.stdout == quiet.stdout == plain.stdout
    lost = shell(folder, f"tfm {verb} < /dev/null >&-")
    errors = [line for line in lost.stderr.splitlines() if line.startswith(b"Error: ")]
    if plain.stdout:
        assert lost.returncode == 1
        assert errors == [b"Error: standard output: closed, so that nothing could be written"]
    else:
        assert lost.returncode == plain.returncode and len(errors) == (plain.returncode != 0)
    assert shell(folder, f"tfm {verb} <&- >&- 2>&-").returncode == lost.returncode


def test_data_from_any_pipe_is_kept_with_the_run(folder: Path) -> None:
    train = "train --size nano --steps 1 --tokenizer byte -q"
    fresh = f"{sys.executable} -m tfm"  # `tfm` on the path does not get other descriptors
    for number, script in enumerate(
        (
            f"{fresh} {train} --data <(cat f.txt) --data <(tac f.txt)",
            f"tfm {train} --data /dev/stdin < f.txt",
            f"mkfifo fifo; (cat f.txt > fifo &) ; tfm {train} --data fifo",
        )
    ):
        done = shell(folder, f"{script} --run r{number}")
        assert (done.returncode, done.stderr) == (0, b""), script
        done = shell(folder, f"tfm train --resume r{number} --steps 2 -q && tfm rerun r{number} -q")
        assert (done.returncode, done.stderr) == (0, b""), script
    assert {p.name for p in (folder / "r0").glob("pipe-*")} == {"pipe-1", "pipe-2"}


def test_no_temporary_name_reaches_a_message(folder: Path) -> None:
    for data in (b"\xff" * 99, b""):
        (folder / "data").write_bytes(data)
        for name in ("-", "fifo"):
            done = shell(
                folder,
                ("rm -f fifo; mkfifo fifo; (cat data > fifo &); " if name == "fifo" else "")
                + f"tfm train --task text --data {name} --steps 1 --size nano < data",
            )
            message = done.stderr.splitlines()[-1].decode()
            assert done.returncode == 2 and ("standard input" if name == "-" else name) in message
            assert "/tfm-" not in message and "pipe-" not in message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_temporary_file(tfm: Tfm, trained: Trained, number: int) -> None:
    scratch = tfm.folder / "scratch"
    scratch.mkdir()
    own = Tfm(tfm.folder, {"TMPDIR": str(scratch)})
    process = own.start("score", trained.path, "/dev/stdin", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"the quick brown fox\n")
    process.stdin.flush()
    until = time.monotonic() + 60
    while not any(scratch.glob("tfm-*/stdin-*")) and time.monotonic() < until:
        time.sleep(0.02)
    assert any(scratch.iterdir())
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (-number, b"", b"")
    assert not any(scratch.iterdir())


@pytest.mark.parametrize("home", [None, "/dev/null/home", "sealed"])
def test_no_home_folder_is_needed(folder: Path, home: str | None) -> None:
    """Nor a cache, which would be there. Root may write anywhere, unless it gives up that right."""
    if home == "sealed":
        (folder / "sealed/.config/tfm").mkdir(parents=True)
        (folder / "sealed/.config/tfm/config.toml").write_text("size = 5")  # would be an error
        (folder / "sealed").chmod(0)
        home = str(folder / "sealed")
    give_up = ""
    if os.geteuid() == 0:
        give_up = "setpriv --bounding-set=-all --inh-caps=-all" if shutil.which("setpriv") else "no"
    if give_up == "no":
        pytest.skip("no setpriv here")
    set_home = "unset HOME" if home is None else f"export HOME='{home}'"
    if give_up and home == "/dev/null/home":
        set_home += "; export CC=no-such-compiler"  # the sealed one compiles, which takes seconds
    fresh = f"{give_up} {sys.executable} -m tfm"
    done = shell(
        folder,
        f"unset XDG_CACHE_HOME XDG_CONFIG_HOME; {set_home}; "
        f"{fresh} train --data f.txt --size nano --steps 1 --tokenizer byte -q --run new",
    )
    if home is not None and "sealed" in home:
        (folder / "sealed").chmod(0o700)
    assert (done.returncode, done.stderr) == (0, b"")


# -- files that are written ----------------------------------------------------------------------


def test_a_link_stays_a_link_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "broken").symlink_to("new")
    write_out(tmp_path / "link", b"one")
    write_out(tmp_path / "broken", b"two")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "broken").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"one" and (tmp_path / "new").read_bytes() == b"two"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    long = tmp_path / ("x" * 255)
    write_out(long, b"three")
    assert long.read_bytes() == b"three" and len(list(tmp_path.iterdir())) == 5


def test_what_cannot_be_written_is_told_before(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"")
    with pytest.raises(UsageError, match="there: already exists; --force overwrites it"):
        check_output(tmp_path / "there", force=False)
    check_output(tmp_path / "there", force=True)
    check_output(tmp_path / "new", force=False)
    with pytest.raises(UsageError, match="there is no folder .*no; make it first"):
        check_output(tmp_path / "no/new", force=True)
    with pytest.raises(UsageError, match="a folder"):
        check_output(tmp_path, force=True)
    if os.geteuid():
        (tmp_path / "there").chmod(0o400)
        with pytest.raises(TfmError, match="cannot be written"):
            check_output(tmp_path / "there", force=True)


def test_samples_overwrite_nothing_unasked(tfm: Tfm, trained: Trained) -> None:
    sample = ("sample", trained.path, "--length", 2, "-q", "--out")
    (tfm.folder / "o.txt").write_text("precious")
    assert "--force" in tfm.error(*sample, "o.txt")
    assert "no folder no" in tfm.error(*sample, "no/o.txt")
    assert (tfm.folder / "o.txt").read_text() == "precious"
    tfm(*sample, "o.txt", "--force")
    tfm(*sample, "{n}.txt", "-n", 2)
    assert "0.txt: already exists" in tfm.error(*sample, "{n}.txt")
    assert (tfm.folder / "o.txt").read_text() != "precious"


# -- names ---------------------------------------------------------------------------------------


def test_names_that_are_no_utf8(tfm: Tfm, trained: Trained) -> None:
    """Of data, prompts and outputs they work; of runs and stops they are refused at once."""
    odd = tfm.folder / os.fsdecode(b"b\xffd.txt")
    odd.write_text(prose(2000))
    tfm("train", "--data", odd, *QUICK, "--run", "run", "--json")
    tfm("train", "--resume", "run", "--steps", 2, "-q")
    assert tfm("score", "run", odd, "--tsv").out.endswith(b"b\xffd.txt\n")
    tfm("compress", "run", odd, "-q")
    tfm("decompress", "run", f"{odd}.tfm", "-o", os.fsdecode(b"\xfe"), "-q")
    assert Path(tfm.folder, os.fsdecode(b"\xfe")).read_bytes() == odd.read_bytes()
    tfm("sample", "run", "-p", os.fsdecode(b"a\xff"), "--length", 2)
    tfm("sample", "run", "-p", f"@{odd}", "--length", 2)
    assert "must be UTF-8" in tfm.error("train", "--data", odd, *QUICK, "--run", "r\udcff")
    assert "must be UTF-8" in tfm.error("train", "--data", odd, *QUICK, "--runs", "r\udcff")
    assert "not UTF-8" in tfm.error("sample", "run", "--stop", "\udcff")


def test_stops_repeat_and_are_taken_as_they_are(tfm: Tfm, trained: Trained) -> None:
    sample = ("sample", trained.path, "--json", "--length", 60, "--greedy", "-p", "the")
    text = tfm(*sample).json()["text"]
    first, second = text[5:7], text[9:12]
    cut = min(text.find(first), text.find(second))
    for stops in (("--stop", first, "--stop", second), ("--stop", second, "--stop", first)):
        done = tfm(*sample, *stops).json()
        assert (done["text"], done["finish_reason"]) == (text[:cut], "stop")
    assert tfm(*sample, env={"TFM_STOP": text[4:9]}).json()["text"] == text[: text.find(text[4:9])]
    assert "$'\\n'" in tfm(*sample, "--stop", "\\n").err


# -- the newcomer --------------------------------------------------------------------------------


def test_what_goes_where_is_told(tfm: Tfm, trained: Trained) -> None:
    (tfm.folder / "notes.txt").write_text(prose(3000))
    run = tfm("train", "notes.txt", *QUICK).text.strip()
    assert Path(tfm.folder, run).is_dir()
    assert len(tfm("score", "notes.txt", "--tsv").text.splitlines()) == 1, "by the newest run"
    assert "-p TEXT" in tfm.error("sample", "The quick")
    assert "--data" in tfm.error("eval", "notes.txt")
    assert "a file, not a run" in tfm.error("compare", "notes.txt", "notes.txt")
    assert "exclude each other" in tfm.error("eval", "--data", "notes.txt", "--split", "valid")


def test_the_default_run_has_a_checkpoint(tfm: Tfm, trained: Trained) -> None:
    """An unreadable run, or one without a checkpoint, is not in the way."""
    import json

    (tfm.folder / "notes.txt").write_text(prose(3000))
    good = tfm("train", "notes.txt", *QUICK, "--run", "runs/good").text.strip()
    shutil.copytree(tfm.folder / good, tfm.folder / "runs/newer")
    shutil.rmtree(tfm.folder / "runs/newer/checkpoints")
    config = json.loads((tfm.folder / "runs/newer/config.json").read_bytes())
    config["created"] = "2999-01-01T00:00:00+00:00"
    (tfm.folder / "runs/newer/config.json").write_text(json.dumps(config))
    assert tfm("eval", "--json").json()["run"] == good
    (tfm.folder / "runs/newer/config.json").write_text("[" * 100_000)
    listed = tfm("runs")
    assert "good" in listed.text and "left out: runs/newer/config.json: damaged" in listed.err
