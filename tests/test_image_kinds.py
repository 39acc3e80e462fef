"""What arrays, folders, tables and archives of pictures mean: one rule a data set, always said."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm
from PIL import Image

from tfm.core.data.source import Source
from tfm.core.errors import DataError, TfmError, UsageError
from tfm.tasks._image.arrays import part_of
from tfm.tasks._image.pictures import Pictures
from tfm.tasks._labelled.labels import label_text
from tfm.tasks.image import ImageOptions, ImageTask

GREY = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
GREY[:, 0, 0] = 255
COLOUR = np.random.default_rng(1).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(24) % 3
TEXT_LABELS = tuple(str(n % 3) for n in range(24))


def read(*paths: Path | str, column: str | None = None, **options: Any) -> Pictures:
    return ImageTask(ImageOptions(**options)).items(Source(tuple(map(str, paths)), column))


def said(pictures: Pictures) -> str:
    (line,) = pictures.description.lines
    return line


def table(path: Path, arrays: list[np.ndarray], **columns: list[Any]) -> Path:
    """A .jsonl of pictures as nested lists."""
    rows = [
        {"image": array.tolist(), **{name: values[n] for name, values in columns.items()}}
        for n, array in enumerate(arrays)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# -- the range of values -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array, pixels, levels, why",
    [
        (GREY, GREY, 256, ""),
        (GREY.astype(np.int64), GREY, 256, ""),
        (GREY.astype(np.float64), GREY, 256, ""),
        (GREY.astype(np.uint16) * 16, np.rint(GREY * (16 * 255 / 4095)), 256, "12 bits"),
        (GREY.astype(np.uint16) * 257, GREY, 256, "16 bits"),
        (GREY / 255, GREY, 256, "0 to 1"),
        ((GREY / 255).astype(np.float16), GREY, 256, "0 to 1"),
        (GREY / 127.5 - 1, GREY, 256, "-1 to 1"),
        (GREY * 0.999, np.rint(GREY * 0.999), 256, "0 to 255"),
        (GREY // 16, GREY // 16, 16, ""),
        (GREY > 99, GREY > 99, 2, ""),
        ((GREY > 99).astype(np.uint8), GREY > 99, 2, "masks of 0 and 1"),
        ((GREY > 99).astype(np.float32), GREY > 99, 2, "masks of 0 and 1"),
    ],
)
def test_the_range_of_an_array(
    tmp_path: Path, array: np.ndarray, pixels: np.ndarray, levels: int, why: str
) -> None:
    np.savez(tmp_path / "a.npz", x=array, y=LABELS)
    found = read(tmp_path / "a.npz")
    assert found.form.levels == levels and why in said(found)
    assert (found.raw[..., 0] == pixels).all()
    # the same values, a picture in each file of a folder or in each row of a table
    for n, each in enumerate(array):
        np.save(tmp_path / f"{n:02}.npy", each)
    (tmp_path / "a.npz").unlink()
    assert (read(tmp_path).raw[..., 0] == pixels).all()
    rows = table(tmp_path / "a.jsonl", list(array))
    assert (read(rows).raw[..., 0] == pixels).all()


def test_a_dark_picture_or_a_mask_follows_the_rule_of_all(tmp_path: Path) -> None:
    mask = (GREY[0] > 99).astype(np.float64)
    for others, expected in ((GREY[1:4] / 255, mask * 255), (GREY[1:4], mask)):
        path = table(tmp_path / "a.jsonl", [mask, *others])
        assert (read(path).raw[0, ..., 0] == expected).all()
        folder = tmp_path / str(len(os.listdir(tmp_path)))
        folder.mkdir()
        for n, each in enumerate((mask, *others)):
            Image.fromarray(each.astype(np.float32), mode="F").save(folder / f"{n}.tif")
        assert (read(folder).raw[0, ..., 0] == expected).all()
    # a bool has no other range than false to true, whatever is beside it
    np.save(tmp_path / "mixed.npy", mask > 0)
    Image.fromarray(GREY[1]).save(tmp_path / "grey.png")
    found = read(tmp_path / "mixed.npy", tmp_path / "grey.png")
    assert set(np.unique(found.raw[0])) == {0, 255}


def test_files_of_more_than_8_bits_follow_the_same_rule(tmp_path: Path) -> None:
    for n in range(3):
        Image.fromarray(GREY[n].astype(np.uint16) * 16).save(tmp_path / f"{n}.png")
    found = read(tmp_path)
    assert "12 bits" in said(found) and found.raw.max() == round(4080 * 255 / 4095)
    assert read(tmp_path, range="0,65535").raw.max() == round(4080 * 255 / 65535)


@pytest.mark.parametrize("kind", ["L", "RGB"])
def test_masks_in_files_and_grey_stored_in_colour(tmp_path: Path, kind: str) -> None:
    for n in range(4):
        pixels = GREY[n] > 99 if kind == "L" else GREY[n]
        Image.fromarray(pixels.astype(np.uint8)).convert(kind).save(tmp_path / f"{n}.png")
    found = read(tmp_path)
    assert found.form.channels == 1 and found.form.levels == (2 if kind == "L" else 256)
    assert ("masks of 0 and 1" if kind == "L" else "grey, stored in colour") in said(found)
    assert (found.raw[..., 0] == (GREY[:4] > 99 if kind == "L" else GREY[:4])).all()
    # one ordinary picture, one in colour, and all are ordinary
    other = GREY[9] if kind == "L" else COLOUR[9]
    Image.fromarray(other).save(tmp_path / "4.png")
    found = read(tmp_path)
    assert found.form.levels == 256 and found.form.channels == (1 if kind == "L" else 3)


@pytest.mark.parametrize(
    "array, option, values",
    [
        (GREY.astype(np.int16) - 128, "-128,127", GREY),
        (GREY / 51 - 2.5, "-2.5,2.5", GREY),
        (GREY // 16, "0,255", GREY // 16),
        (GREY // 64, "0,15", GREY // 64),
        (GREY.astype(np.uint32) * 2**20, f"0,{255 * 2**20}", GREY),
    ],
)
def test_an_unusual_range_is_asked_for_and_taken(
    tmp_path: Path, array: np.ndarray, option: str, values: np.ndarray
) -> None:
    np.save(tmp_path / "a.npy", array)
    if array.min() < 0 or array.max() > 65535:
        with pytest.raises(DataError, match="no usual range.*--range LOW,HIGH"):
            read(tmp_path / "a.npy")
    assert (read(tmp_path / "a.npy", range=option).raw[..., 0] == values).all()


def test_a_range_that_cannot_be_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY)
    Image.fromarray(GREY[0]).save(tmp_path / "a.png")
    for option in ("0", "1,0", "a,b", "0,1,2", "nan,1", "0,inf"):
        with pytest.raises(UsageError, match="--range"):
            read(tmp_path / "a.npy", range=option)
    with pytest.raises(DataError, match=r"a\.npy.*outside the range 0 to 100"):
        read(tmp_path / "a.npy", range="0,100")
    assert read(tmp_path / "a.png", range="0,100").useless[0].startswith("--range 0,100: is for")


# -- axes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("first", [False, True])
def test_channels_first_or_last(tmp_path: Path, channels: int, first: bool) -> None:
    pixels = np.concatenate((COLOUR, np.full_like(COLOUR[..., :1], 255)), axis=3)[..., :channels]
    stored = pixels.transpose(0, 3, 1, 2) if first else pixels
    np.save(tmp_path / "a.npy", stored)
    expected = pixels if channels < 4 else COLOUR
    for path in (tmp_path / "a.npy", table(tmp_path / "a.jsonl", list(stored), label=[0] * 24)):
        found = read(path)
        assert (found.raw == expected).all() and len(found) == 24
        assert ("channels before height and width" in said(found)) == first


def test_one_order_of_axes_for_all(tmp_path: Path) -> None:
    """A picture whose shape could be either follows the others; a contradiction is an error."""
    either = np.arange(3 * 8 * 3, dtype=np.uint8).reshape(3, 8, 3)
    path = table(tmp_path / "a.jsonl", [either, *COLOUR[:3].transpose(0, 3, 1, 2)])
    found = read(path, pixels="8x3")
    assert (found.raw[0] == either.transpose(1, 2, 0)).all()
    path = table(tmp_path / "b.jsonl", [COLOUR[0], COLOUR[1].transpose(2, 0, 1)])
    with pytest.raises(DataError, match="channels come first in .*row 2 and last in .*row 1"):
        read(path)


def test_a_stack_of_three_or_one_picture_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", COLOUR[0].transpose(2, 0, 1))
    found = read(tmp_path / "a.npy")
    assert len(found) == 3 and "a.npy of 3 x 8 x 8 taken as 3 grey pictures" in said(found)
    for n in range(4):  # several such files, and none would be a stack
        np.save(tmp_path / f"{n}.npy", COLOUR[n].transpose(2, 0, 1))
    (tmp_path / "a.npy").unlink()
    assert (read(tmp_path).raw == COLOUR[:4]).all()


# -- parts and labels of arrays ------------------------------------------------------------------


def parts(pictures: Pictures) -> dict[str, int]:
    return {name: len(part) for name, part in pictures.parts().items()}


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("X_test", "Y_test", "X_train", "Y_train", "X_valid", "Y_valid"),
        ("trainImages", "trainTargets", "devImages", "devTargets", "testImages", "testTargets"),
        ("images_train", "labels_train", "images_test", "labels_test"),
    ],
)
def test_parts_of_an_npz(tmp_path: Path, names: tuple[str, ...]) -> None:
    sizes = {"train": 12, "valid": 7, "test": 5}
    arrays: dict[str, np.ndarray] = {}
    wanted: dict[str, int] = {}
    for name in names:
        part = part_of(name)[0]
        wanted[part] = sizes[part]
        is_label = part_of(name)[1] in ("y", "labels", "targets")
        arrays[name] = LABELS[: sizes[part], None] if is_label else GREY[: sizes[part]]
    np.savez(tmp_path / "a.npz", **arrays)
    found = read(tmp_path / "a.npz", labels="first")
    assert parts(found) == wanted and found.names() == ("0", "1", "2")
    for part, pictures in found.parts().items():
        assert pictures.labels == TEXT_LABELS[: sizes[part]]


def test_an_npz_with_one_part_or_a_chosen_array_has_no_parts(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_test=GREY, y_test=LABELS)
    assert parts(read(tmp_path / "a.npz")) == {}
    np.savez(tmp_path / "b.npz", x_train=GREY, y_train=LABELS, x_test=GREY[:5], y_test=LABELS[:5])
    found = read(tmp_path / "b.npz", column="x_test")
    assert parts(found) == {} and found.labels == TEXT_LABELS[:5]
    assert "2 another array: " in said(found)
    with pytest.raises(DataError, match="no array 'x_tset'; --column: x_train"):
        read(tmp_path / "b.npz", column="x_tset")


def test_the_label_column_of_an_npz_and_of_a_table(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=GREY, labels=LABELS, species=LABELS + 5)
    assert read(tmp_path / "a.npz").labels == TEXT_LABELS
    assert read(tmp_path / "a.npz", label_column="species").names() == ("5", "6", "7")
    rows = table(tmp_path / "a.jsonl", list(GREY), label=[*LABELS.tolist()], kind=["a", "b"] * 12)
    assert read(rows).labels == TEXT_LABELS
    assert read(rows, label_column="kind").labels == ("a", "b") * 12
    with pytest.raises(
        DataError, match="no column 'sort' in row 1; .*--label-column: image, label"
    ):
        read(rows, label_column="sort")
    np.save(tmp_path / "a.npy", GREY)
    said = "--label-column x: is for tables and .npz files"
    assert read(tmp_path / "a.npy", label_column="x").useless == (said,)
    train = ("train", "--data", "a.npy", "--steps", 1, "--label-column", "x", "--task", "image")
    assert said in Tfm(tmp_path).error(*train)


@pytest.mark.parametrize(
    "value, label",
    [
        (3, "3"),
        (3.0, "3"),
        (np.float32(4), "4"),
        (np.int64(5), "5"),
        ("007", "007"),
        (b"cat", "cat"),
        (np.bytes_(b"dog"), "dog"),
        ("ä".encode(), "ä"),
        ([7], "7"),
        (True, "True"),
        (0.5, "0.5"),
        (None, None),
        (float("nan"), None),
        ("", None),
        ("  ", None),
        ("None", None),
        ("nan", None),
        ("NA", "NA"),
    ],
)
def test_labels_are_text(value: Any, label: str | None) -> None:
    assert label_text(value, "here") == label


def test_labels_of_every_type_of_array(tmp_path: Path) -> None:
    names = np.array(["a", "b", "c"])[LABELS]
    with_gap = np.where(np.arange(24) == 4, np.nan, LABELS)
    for array, labels in (
        (names, tuple(names)),
        (names.astype("S1"), tuple(names)),
        (LABELS.astype(np.float32), TEXT_LABELS),
        (LABELS[:, None], TEXT_LABELS),
        (with_gap, tuple(None if n == 4 else each for n, each in enumerate(TEXT_LABELS))),
    ):
        np.savez(tmp_path / "a.npz", x=GREY, y=array)
        assert read(tmp_path / "a.npz", labels="last").labels == labels


@pytest.mark.parametrize("missing, used", [(0, True), (2, True), (8, False)])
def test_a_missing_label_is_missing(tmp_path: Path, missing: int, used: bool) -> None:
    labels: list[Any] = [("cat", "dog")[n % 2] for n in range(24)]
    labels[:missing] = [None] * missing
    path = table(tmp_path / "a.jsonl", list(GREY), label=labels)
    found = read(path)  # auto
    assert found.names() == ("cat", "dog")
    assert found.label_position == ("first" if used else "none")
    assert len(found) == (24 - missing if used else 24)
    if missing:
        assert f"{missing} without a label: {path}, row 1, {path}, row 2" in said(found)
    assert len(read(path, labels="first")) == 24 - missing
    assert len(read(path, labels="last")) == 24
    unlabelled = table(tmp_path / "b.jsonl", list(GREY), label=[None] * 24)
    with pytest.raises(DataError, match="--labels first: none of 24 pictures has a label"):
        read(unlabelled, labels="first")
    last = ImageTask(ImageOptions(labels="last"))
    with pytest.raises(DataError, match="--labels last: none of 24 pictures has a label"):
        last.fit_tokenizer("patches", last.items(Source((str(unlabelled),))))


def test_more_than_a_thousand_labels_are_taken(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 4, (2600, 2, 2)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=pixels, y=np.arange(2600) % 1300)
    task = ImageTask(ImageOptions())
    items = task.items(Source((str(tmp_path / "a.npz"),)))
    assert len(task.fit_tokenizer("patches", items).labels) == 1300
    np.savez(tmp_path / "b.npz", x=pixels, y=np.arange(2600))  # numbers of pictures, no classes
    assert "2,600 labels (0, 1, 2, 3, 4, 5 ...) not used" in said(read(tmp_path / "b.npz"))


# -- folders -------------------------------------------------------------------------------------


def write_classes(folder: Path, *classes: str, count: int = 6) -> Path:
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for n in range(count):
            Image.fromarray(GREY[k * count + n]).save(folder / name / f"{n}.png")
    return folder


def test_a_stray_picture_is_left_out_by_name(tmp_path: Path) -> None:
    write_classes(tmp_path, "left", "right")
    Image.fromarray(GREY[0]).save(tmp_path / "cover.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    for options in ({}, {"labels": "first"}):
        found = read(tmp_path, **options)
        assert len(found) == 12 and found.names() == ("left", "right")
        assert f"1 without a label: {tmp_path}/cover.png" in said(found)
        assert "1 no picture: notes.txt" in said(found)
    assert len(read(tmp_path, labels="none")) == 13


def test_arrays_in_class_folders(tmp_path: Path) -> None:
    for name in ("x", "z"):
        (tmp_path / name).mkdir()
        for n in range(6):
            np.save(tmp_path / name / f"{n}.npy", COLOUR[n])
    found = read(tmp_path, labels="first")
    assert found.raw.shape == (12, 8, 8, 3) and found.names() == ("x", "z")
    np.savez(tmp_path / "x" / "more.npz", images=COLOUR[6:9])
    found = read(tmp_path, labels="first")
    assert len(found) == 15 and found.labels.count("x") == 9


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "test"), ("train", "dev")]
)
def test_parts_of_a_folder(tmp_path: Path, names: tuple[str, ...]) -> None:
    for k, name in enumerate(names):
        write_classes(tmp_path / name, "cat", "dog", count=4 - k)
    Image.fromarray(GREY[0]).save(tmp_path / "cover.png")
    found = read(tmp_path)
    known = {"Training": "train", "val": "valid", "dev": "valid"}
    assert parts(found) == {known.get(name, name): 2 * (4 - k) for k, name in enumerate(names)}
    assert found.names() == ("cat", "dog")
    assert "1 beside the folders of train and test" in said(found)


def test_classes_called_train_are_classes(tmp_path: Path) -> None:
    found = read(write_classes(tmp_path, "train", "plane"))
    assert parts(found) == {} and found.names() == ("plane", "train")
    shutil.rmtree(tmp_path / "plane")
    assert parts(read(tmp_path)) == {}


def test_parts_train_validate_and_test(tmp_path: Path) -> None:
    """The parts are what their names say, and `--valid` and `--test` override them."""
    np.savez(
        tmp_path / "a.npz",
        x_test=GREY[:4],
        y_test=LABELS[:4],
        x_train=GREY,
        y_train=LABELS,
        x_val=GREY[4:9],
        y_val=LABELS[4:9],
    )
    tfm = Tfm(tmp_path)
    quick = ("--task", "image", "--steps", 1, "--size", "nano")
    done = tfm("train", *quick, "--data", "a.npz", "--run", "a", "--json")
    scores = done.json()
    assert (scores["split"], scores["images"]) == ("test", 4)
    assert scores["data"]["parts"] == {"train": 24, "valid": 5, "test": 4}
    assert "training on 24 of 33 pictures; held out: 5 of 33 pictures; test 4 of 33" in done.err
    assert tfm("eval", "a", "--split", "valid", "--json").json()["images"] == 5
    tfm("train", "--resume", "a", "--steps", 2, "-q")
    np.save(tmp_path / "other.npy", GREY[:6])
    np.savez(tmp_path / "other.npz", x=GREY[:6], y=LABELS[:6])
    done = tfm("train", *quick, "--data", "a.npz", "--run", "b", "--json", "--test", "other.npz")
    assert done.json()["images"] == 6
    assert "--test replaces 4 of 33 pictures of the data's own part test" in done.err
    said = tfm.error("train", *quick, "--data", "a.npz", "--holdout", "0.5")
    assert "--holdout 0.5: nothing is held out where the data has a validation part" in said


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_linked_classes_are_followed(tmp_path: Path) -> None:
    away = write_classes(tmp_path / "away", "cat", "dog")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(away / "cat")
    (tmp_path / "data" / "dog").symlink_to(away / "dog")
    (tmp_path / "data" / "dog" / "round").symlink_to(tmp_path / "data" / "dog")  # a circle
    found = read(tmp_path / "data")
    assert len(found) == 12 and found.names() == ("cat", "dog")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read all")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path, "cat", "dog")
    (tmp_path / "cat").chmod(0)
    with pytest.raises(DataError, match="cat: not readable"):
        read(tmp_path)
    (tmp_path / "cat").chmod(0o755)


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".avif", ".webp", ".tga"])
def test_more_suffixes(tmp_path: Path, suffix: str) -> None:
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".avif": "AVIF", ".webp": "WEBP", ".tga": "TGA"}
    if suffix == ".avif":
        from PIL import features

        if not features.check("avif"):
            pytest.skip("this Pillow reads no AVIF")
    Image.fromarray(COLOUR[0]).save(tmp_path / f"a{suffix}", kinds[suffix])
    (tmp_path / "b.txt").write_text("no picture")
    assert read(tmp_path).raw.shape == (1, 8, 8, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation, turned", [(6, True), (3, False), (0, False), (9, False)])
def test_orientation_of_every_format(
    tmp_path: Path, suffix: str, orientation: int, turned: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    half = np.zeros((8, 16, 3), np.uint8)
    half[:, :8] = 255  # bright on the left
    try:
        Image.fromarray(half).save(tmp_path / f"a{suffix}", exif=exif)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {suffix}")
    found = read(tmp_path / f"a{suffix}").raw[0, ..., 0]
    assert found.shape == ((16, 8) if turned else (8, 16))
    bright = {6: found[:8], 3: found[:, 8:], 0: found[:, :8], 9: found[:, :8]}[orientation]
    assert bright.mean() > 240


def test_frames_of_an_animation_are_counted(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY[n]) for n in range(5)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.tif", save_all=True, append_images=frames[1:3])
    frames[3].save(tmp_path / "c.png")
    found = read(tmp_path)
    assert len(found) == 3
    assert "2 animations reduced to their first frame (6 frames left out)" in said(found)


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz"])
def test_archives_are_folders(tmp_path: Path, suffix: str) -> None:
    write_classes(tmp_path / "in", "cat", "dog")
    path = tmp_path / f"pictures{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for each in sorted((tmp_path / "in").rglob("*.png")):
                archive.write(each, each.relative_to(tmp_path / "in"))
            archive.writestr("__MACOSX/0.png", b"junk")
    else:
        with tarfile.open(
            path, f"w:{suffix.rpartition('.')[2].replace('tgz', 'gz')}" if suffix != ".tar" else "w"
        ) as tar:
            tar.add(tmp_path / "in", "")
    found = read(path)
    assert len(found) == 12 and found.names() == ("cat", "dog")
    assert found.found[0].name == f"{path}/cat/0.png"
    path.write_bytes(path.read_bytes()[:200])
    from tfm.core.data.archives import extracted

    extracted.cache_clear()
    with pytest.raises(DataError, match=f"pictures{suffix}: a damaged archive"):
        read(path)


@pytest.mark.parametrize("python", ["with a filter", "without"])
def test_an_archive_writes_nothing_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    """Python's own filter is as old as 3.10.12 and 3.11.4."""
    if python == "without":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    png = io.BytesIO()
    Image.fromarray(GREY[0]).save(png, "PNG")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../escaped.png", png.getvalue())
    found = read(tmp_path / "a.zip")
    assert len(found) == 1 and not (tmp_path / "escaped.png").exists()
    assert not (tmp_path.parent / "escaped.png").exists()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        entry = tarfile.TarInfo("../escaped.png")
        entry.size = len(png.getvalue())
        tar.addfile(entry, io.BytesIO(png.getvalue()))
    with pytest.raises(TfmError):
        read(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        entry.name = "inside/a.png"
        tar.addfile(entry, io.BytesIO(png.getvalue()))
    assert len(read(tmp_path / "b.tar")) == 1
    from tfm.core.data.scratch import scratch_file

    assert not (scratch_file("any").parent / "escaped.png").exists()


# -- tables --------------------------------------------------------------------------------------


def test_paths_are_relative_to_their_table(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "set" / "img").mkdir(parents=True)
    for n in range(4):
        Image.fromarray(GREY[n]).save(tmp_path / "set" / "img" / f"{n}.png")
    rows = "".join(f"img/{n}.png,{n % 2}\n" for n in range(4))
    (tmp_path / "set" / "a.csv").write_text("file,digit\n" + rows)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = read("../set/a.csv")
    assert len(found) == 4 and found.labels == ("0", "1", "0", "1")
    (tmp_path / "b.csv").write_text("file,digit\nnowhere/1.png,0\n")
    with pytest.raises(DataError, match=r"nowhere/1\.png: no such file"):
        read(tmp_path / "b.csv")


def test_labels_of_a_csv_are_as_they_stand(tmp_path: Path) -> None:
    labels = ["007", "1e5", "NA", "null", "", "1.0"]
    for n in range(6):
        Image.fromarray(GREY[n]).save(tmp_path / f"{n}.png")
    rows = "".join(f"{n}.png,{label}\n" for n, label in enumerate(labels))
    (tmp_path / "a.csv").write_text("file,label\n" + rows)
    found = read(tmp_path / "a.csv", labels="last")
    assert found.labels == ("007", "1e5", "NA", "null", None, "1.0")


@pytest.mark.parametrize(
    "heading", ["label first", "label last", "no label", "none first", "none last"]
)
def test_a_csv_of_pixels(tmp_path: Path, heading: str) -> None:
    """MNIST's form: label,pixel0,pixel1 ...; some have the label last, some have no heading."""
    pixels = GREY.copy()
    pixels[:, 0, 0] = pixels[:, -1, -1] = 0  # as the corners of centred digits
    names = [f"pixel{n}" for n in range(64)]
    rows = pixels.reshape(24, -1).tolist()
    if heading.endswith("first"):
        lines, head = [[n % 3, *row] for n, row in enumerate(rows)], ["label", *names]
    elif heading.endswith("last"):
        lines, head = [[*row, n % 3] for n, row in enumerate(rows)], [*names, "class"]
    else:
        lines, head = rows, names
    text = [",".join(map(str, line)) for line in ([] if "none" in heading else [head]) + lines]
    (tmp_path / "a.csv").write_text("\n".join(text) + "\n")
    found = read(tmp_path / "a.csv")
    assert (found.raw[..., 0] == pixels).all() and found.form.levels == 256
    assert found.labels == ((None,) * 24 if heading == "no label" else TEXT_LABELS)
    if heading == "label first":
        (tmp_path / "b.csv").write_text("\n".join(line.rpartition(",")[0] for line in text))
        with pytest.raises(DataError, match="63 columns of numbers are not .* a square"):
            read(tmp_path / "b.csv")


def test_a_table_of_flat_lists(tmp_path: Path) -> None:
    path = table(tmp_path / "a.jsonl", [each.reshape(-1) for each in GREY], label=[1] * 24)
    assert (read(path).raw[..., 0] == GREY).all()
    uneven = table(tmp_path / "b.jsonl", [each.reshape(-1)[:60] for each in GREY])
    with pytest.raises(DataError, match="no column of pictures"):
        read(uneven)


# -- more of parts and labels --------------------------------------------------------------------


def test_pictures_without_a_part_beside_parts(tmp_path: Path) -> None:
    """Without one for training, they are it; else they are left out by name."""
    np.savez(tmp_path / "a.npz", X=GREY, Y=LABELS, X_valid=GREY[:3], Y_valid=LABELS[:3])
    assert parts(read(tmp_path / "a.npz")) == {"train": 24, "valid": 3}
    np.savez(tmp_path / "b.npz", images=GREY, x_train=GREY[:9], x_test=GREY[:3])
    found = read(tmp_path / "b.npz")
    assert parts(found) == {"train": 9, "test": 3} and f"{tmp_path}/b.npz:images" in said(found)


def test_one_hot_labels_are_labels_and_several_a_picture_are_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=GREY, y=np.eye(3)[LABELS])
    assert read(tmp_path / "a.npz").labels == TEXT_LABELS
    np.savez(tmp_path / "b.npz", x=GREY, y=np.ones((24, 3)))
    with pytest.raises(DataError, match="y: must be one label a picture"):
        read(tmp_path / "b.npz")


def test_labels_are_used_if_the_training_part_has_them(tmp_path: Path) -> None:
    """Tests of competitions have none: they are left out by name where labels come first."""
    np.savez(tmp_path / "a.npz", x_train=GREY[:6], y_train=LABELS[:6], x_test=GREY)
    found = read(tmp_path / "a.npz")
    assert found.label_position == "first" and len(found) == 6 and parts(found) == {}
    assert "24 without a label" in said(found)
    assert parts(read(tmp_path / "a.npz", labels="last")) == {"train": 6, "test": 24}


def test_a_folder_around_all_is_no_label(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_classes(tmp_path / "set" / "inner" / part, "cat", "dog")
    found = read(tmp_path)
    assert parts(found) == {"train": 12, "valid": 12} and found.names() == ("cat", "dog")
    shutil.rmtree(tmp_path / "set" / "inner" / "val")
    assert read(tmp_path).names() == ("cat", "dog")
    shutil.rmtree(tmp_path / "set" / "inner" / "train" / "dog")
    assert read(tmp_path).names() == ("cat",)


# -- what looks like something else --------------------------------------------------------------


def test_other_data_of_a_run_means_what_its_arrays_meant(tmp_path: Path) -> None:
    """A darker validation set is darker; numbers between 0 and 1 are not of 0 to 255."""
    np.save(tmp_path / "train.npy", GREY)
    np.save(tmp_path / "dark.npy", GREY // 4)
    np.save(tmp_path / "shares.npy", GREY / 255)
    np.save(tmp_path / "signed.npy", GREY / 127.5 - 1)
    np.save(tmp_path / "above.npy", (GREY // 2 + 128) / 255)
    form = read(tmp_path / "train.npy").form
    dark = read(tmp_path / "dark.npy")
    assert dark.form.levels == 64
    assert (dark.converted_to(form).raw[..., 0] == GREY // 4).all()
    assert (read(tmp_path / "shares.npy").converted_to(form).raw[..., 0] == GREY).all()
    signed = read(tmp_path / "signed.npy").form
    upper = read(tmp_path / "above.npy").converted_to(signed).raw[..., 0]
    assert upper.min() > 190  # 0.5 of -1 to 1
    asked = read(tmp_path / "dark.npy", range="0,63").converted_to(form).raw
    assert asked.max() == 255


def test_what_rounding_left_beyond_a_range_is_clipped(tmp_path: Path) -> None:
    for scaled in (GREY / 255 * 1.0000001, GREY / 255 - 1e-7, GREY / 127.5 - 1.0000001):
        np.save(tmp_path / "a.npy", scaled)
        assert (read(tmp_path / "a.npy").raw[..., 0] == GREY).all()
    np.save(tmp_path / "a.npy", GREY / 255 * 1.05)
    with pytest.raises(DataError, match="no usual range"):
        read(tmp_path / "a.npy")


def test_two_ranges_in_one_data_set_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=GREY, x_test=GREY[:5] / 255)
    with pytest.raises(DataError, match="x_test has fractions up to 1, and .*x_train whole"):
        read(tmp_path / "a.npz")


def test_flat_pictures_of_every_part(tmp_path: Path) -> None:
    flat = GREY.reshape(24, 64)
    np.savez(tmp_path / "a.npz", x_train=flat, y_train=LABELS, x_test=flat[:9])
    assert parts(read(tmp_path / "a.npz", labels="last")) == {"train": 24, "test": 9}
    np.save(tmp_path / "b.npy", flat)
    assert "b.npy taken as one picture, not as 24 flat ones" in said(read(tmp_path / "b.npy"))


def test_labels_that_are_not_wanted_refuse_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=GREY, y=np.ones((24, 14)))
    assert len(read(tmp_path / "a.npz", labels="none")) == 24
    path = table(tmp_path / "a.jsonl", list(GREY), label=[[1, 2]] * 24)
    assert len(read(path, labels="none")) == 24


@pytest.mark.parametrize("heading", ["image,Label", "filename,category", "image, label "])
def test_headings_of_any_case(tmp_path: Path, heading: str) -> None:
    write_classes(tmp_path, "cat")
    rows = "".join(f"cat/{n}.png,{n % 2}\n" for n in range(6))
    (tmp_path / "a.csv").write_text(f"{heading}\n{rows}")
    assert read(tmp_path / "a.csv").names() == ("0", "1")
    (tmp_path / "A.CSV").write_text(f"{heading}\n{rows}")
    assert len(read(tmp_path / "A.CSV")) == 6
    (tmp_path / "b.csv").write_text(rows)
    with pytest.raises(DataError, match="first row is a picture, so it has no heading"):
        read(tmp_path / "b.csv")


def test_the_column_of_pictures_is_found_and_said(tmp_path: Path) -> None:
    rows = [{"image": None, "label": 1}] + [
        {"mask": [[0, 1]], "image": each.tolist(), "label": 0} for each in GREY
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read(tmp_path / "a.jsonl")
    assert len(found) == 24 and found.raw.shape[1:3] == (8, 8)
    assert "pictures of the column image" in said(found)
    assert "1 without a picture: row 1" in said(found)


def test_the_label_of_natural_pictures_in_a_csv_without_a_heading(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    pixels = np.clip(
        rng.integers(60, 200, (90, 1)) + rng.integers(-3, 4, (90, 64)).cumsum(1), 0, 255
    )
    lines = [[n % 5, *row] for n, row in enumerate(pixels.tolist())]
    (tmp_path / "a.csv").write_text("\n".join(",".join(map(str, line)) for line in lines))
    found = read(tmp_path / "a.csv")
    assert found.names() == ("0", "1", "2", "3", "4")
    assert (found.raw.reshape(90, 64) == pixels).all()


def test_files_of_x_and_y(tmp_path: Path) -> None:
    for part, count in (("train", 24), ("test", 6)):
        np.save(tmp_path / f"x_{part}.npy", GREY[:count])
        np.save(tmp_path / f"y_{part}.npy", LABELS[:count])
    for paths in ((tmp_path,), (f"{tmp_path}/*.npy",)):
        found = read(*paths)
        assert parts(found) == {"train": 24, "test": 6} and found.labels[:24] == TEXT_LABELS


def test_folders_beside_parts_and_parts_without_training(tmp_path: Path) -> None:
    for part in ("training_set", "test_set", "extra"):
        write_classes(tmp_path / part, "cat", "dog")
    found = read(tmp_path)
    assert parts(found) == {"train": 12, "test": 12} and found.names() == ("cat", "dog")
    assert "12 beside the folders of train and test" in said(found)
    np.savez(tmp_path / "a.npz", x_val=GREY, x_test=GREY)
    with pytest.raises(DataError, match="parts for validation and test, and none for training"):
        read(tmp_path / "a.npz").parts()


def test_masks_of_both_modes(tmp_path: Path) -> None:
    for n in range(4):
        mask = GREY[n] > 99
        image = Image.fromarray(mask) if n % 2 else Image.fromarray(mask.astype(np.uint8))
        image.save(tmp_path / f"{n}.png")
    found = read(tmp_path)
    assert found.form.levels == 2 and (found.raw[..., 0] == (GREY[:4] > 99)).all()


def test_a_missing_label_has_no_weight_in_training(tmp_path: Path) -> None:
    labels: list[Any] = [None if n % 4 == 0 else n % 3 for n in range(24)]
    task = ImageTask(ImageOptions(labels="last"))
    items = task.items(Source((str(table(tmp_path / "a.jsonl", list(GREY), label=labels)),)))
    tokenizer = task.fit_tokenizer("patches", items)
    length = tokenizer.length(8, 8)
    batch = task.dataset(items, tokenizer, length - 1, None, 0, tmp_path).batch(np.arange(24))
    missing = [label is None for label in labels]
    assert ((batch.weight[:, length - 1] == 0) == missing).all()
    assert (batch.weight[:, 1 : length - 1] == 1).all()
