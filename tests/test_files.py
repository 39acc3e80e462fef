"""Files that say when they were changed: whole writes, manifests, a log of checked lines."""

import json
from pathlib import Path
from typing import Any

import pytest

from tfm.core.errors import ConfigError, DamagedError
from tfm.core.files import check_files, log_line, read_log, write_durably, write_manifest

ENTRIES = [{"step": n, "loss": n / 3, "note": "a, é\n\u2028", "check": "x"} for n in range(1, 5)]


def test_a_write_is_whole_or_did_not_happen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    write_durably(file, b"before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_durably(file, b"after")
    assert file.read_bytes() == b"before"
    write_durably(file, b"after")
    assert file.read_bytes() == b"after" and list(tmp_path.iterdir()) == [file]


def test_a_manifest_covers_every_file_below_and_itself(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "below" / "two").write_bytes(b"")
    write_manifest(tmp_path, {"more": "x"})
    manifest = check_files(tmp_path)
    assert set(manifest["files"]) == {"one", "below/two"} and manifest["more"] == "x"
    body: dict[str, Any] = json.loads((tmp_path / "manifest.json").read_bytes())
    for change in (
        {"more": "y"},
        {"files": {}},
        {"files": {"one": body["files"]["one"]}},
        {"sha256": ""},
    ):
        (tmp_path / "manifest.json").write_text(json.dumps({**body, **change}))
        with pytest.raises(DamagedError, match="manifest.json"):
            check_files(tmp_path)


def test_a_manifest_of_a_newer_format_is_no_damage(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"format": 2})
    with pytest.raises(ConfigError, match="newer tfm .format 2.; upgrade"):
        check_files(tmp_path)


def test_a_damaged_line_is_noticed_and_half_a_last_one_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    whole = "".join(map(log_line, ENTRIES)).encode()
    last = len(whole) - len(log_line(ENTRIES[-1]))
    for at in range(len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DamagedError, match=r"log.jsonl: line \d is damaged"):
            list(read_log(path))
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        assert list(read_log(path)) == ENTRIES[:-1]
    path.write_bytes(whole)
    assert list(read_log(path)) == ENTRIES
    assert list(read_log(tmp_path / "none")) == []
