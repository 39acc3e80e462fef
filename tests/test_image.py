"""Pictures through the task and the command line: every format and mode in, PNGs out."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm
from PIL import Image

from tfm.core.data.source import Source
from tfm.core.errors import DataError, TfmError, UsageError
from tfm.tasks._image.baselines import histogram, png
from tfm.tasks._image.display import grid, terminal_picture
from tfm.tasks._image.pictures import Pictures, quantised
from tfm.tasks._image.tokenizer import exact_patch
from tfm.tasks.image import ImageOptions, ImageTask
from tfm.tokenizers.patches import Form

MNIST = Path(__file__).parent.parent.parent / "shared" / "data" / "image" / "mnist"


def read(*paths: Path | str, column: str | None = None, **options: Any) -> Pictures:
    return ImageTask(ImageOptions(**options)).items(Source(tuple(map(str, paths)), column))


def noise(*shape: int, top: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape).astype(np.uint8)


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


# -- formats -------------------------------------------------------------------------------------


def test_subfolders_are_labels(tmp_path: Path) -> None:
    pixels = noise(4, 5, 6)
    for number, label in enumerate(("cat", "dog", "cat", "dog")):
        (tmp_path / label).mkdir(exist_ok=True)
        Image.fromarray(pixels[number]).save(tmp_path / label / f"{number}.png")
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    found = read(tmp_path)
    assert found.labels == ("cat", "cat", "dog", "dog")
    assert (found.raw[..., 0] == pixels[[0, 2, 1, 3]]).all()
    assert found.form == Form(5, 6, 1, 256, 256)


def test_labels_of_an_npz_are_called_so_or_are_the_only_ones(tmp_path: Path) -> None:
    pictures, y = noise(4, 3, 3), np.array([1, 0, 1, 0])
    for number, (arrays, labels) in enumerate(
        [
            (dict(images=pictures, index=np.arange(4), labels=y), ("1", "0", "1", "0")),
            (
                dict(x=pictures, age=np.array([7, 7, 8, 8]), y=y[:, None].astype(float)),
                ("1", "0", "1", "0"),
            ),
            (dict(x=pictures, kind=np.array(["a", "a", "b", "b"])), ("a", "a", "b", "b")),
            (dict(x=pictures, index=np.arange(4)), (None,) * 4),
            (dict(x=pictures, age=y, sex=y), (None,) * 4),
        ]
    ):
        np.savez(tmp_path / f"{number}.npz", **arrays)
        assert read(tmp_path / f"{number}.npz").labels == labels
    for name, wrong in (("short", y[:3]), ("fractions", y / 2)):
        np.savez(tmp_path / f"{name}.npz", x=pictures, y=wrong)
        with pytest.raises(DataError, match="label"):
            read(tmp_path / f"{name}.npz")


def test_a_label_held_out_whole_is_known(tmp_path: Path) -> None:
    """Where a class has one picture, that may be the one held out."""
    pixels = noise(40, 3, 3)
    np.savez(tmp_path / "a.npz", x=pixels, y=np.array([0, 0, *range(1, 39)]))
    task = ImageTask(ImageOptions(labels="first"))
    items = task.items(Source((str(tmp_path / "a.npz"),)))
    train, held = task.split(items, 0.2)
    tokenizer = task.fit_tokenizer("patches", train)
    assert set(held.labels) - set(train.labels) and held.names() == train.names() == items.names()
    assert len(list(task.sequences(held, tokenizer))) == len(held)


def test_fractions_in_a_tiff_are_shades(tmp_path: Path) -> None:
    shades = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    Image.fromarray(shades, mode="F").save(tmp_path / "a.tif")
    Image.fromarray(shades * 255, mode="F").save(tmp_path / "b.tif")
    for name in ("a.tif", "b.tif"):
        found = read(tmp_path / name).raw[0, ..., 0]
        np.testing.assert_array_equal(found, [[0, 64], [128, 255]])


def test_npz_with_labels(tmp_path: Path) -> None:
    """As Keras names them: the labels that belong to the chosen pictures."""
    x = noise(3, 4, 4, 3)
    np.savez(
        tmp_path / "a.npz",
        x_test=noise(3, 4, 4, 3, seed=1),
        y_test=[7, 8, 9],
        x_train=x,
        y_train=[1, 2, 3],
    )
    found = read(tmp_path / "a.npz", column="x_train")
    assert found.labels == ("1", "2", "3") and (found.raw == x).all()
    assert read(tmp_path / "a.npz").labels == ("1", "2", "3", "7", "8", "9")


@pytest.mark.parametrize(
    "array, shape, levels",
    [
        (noise(5, 4, 3), (1, 5, 4, 3), 256),  # one picture in colour
        (noise(5, 4, 6), (5, 4, 6, 1), 256),
        (noise(5, 4), (1, 5, 4, 1), 256),
        (noise(2, 3, 5, 6), (2, 5, 6, 3), 256),  # channels first
        (noise(2, 5, 6, 4), (2, 5, 6, 3), 256),  # alpha is laid on white
        (noise(2, 5, 6, top=2).astype(bool), (2, 5, 6, 1), 2),
        (np.minimum(noise(9, 8, 8), 16), (9, 8, 8, 1), 17),
        (np.array([[[0.0, 0.5], [1.0, 0.25]]]), (1, 2, 2, 1), 256),
        (noise(2, 5, 6).astype(np.uint16) * 257, (2, 5, 6, 1), 256),
    ],
)
def test_npy(tmp_path: Path, array: np.ndarray, shape: tuple[int, ...], levels: int) -> None:
    np.save(tmp_path / "a.npy", array)
    found = read(tmp_path / "a.npy")
    assert found.raw.shape == shape and found.form.levels == levels
    if array.dtype == np.uint16:
        assert (found.raw[..., 0] == array // 257).all()
    elif array.dtype == np.float64:
        assert found.raw.reshape(-1).tolist() == [0, 128, 255, 64]


def test_idx_pairs_and_their_names(tmp_path: Path) -> None:
    pixels = noise(6, 4, 5)
    write_idx(tmp_path / "a-images-idx3-ubyte.gz", pixels)
    write_idx(tmp_path / "a-labels-idx1-ubyte.gz", np.arange(6))
    for path in (tmp_path, tmp_path / "a-images-idx3-ubyte.gz"):
        found = read(path)
        assert (found.raw[..., 0] == pixels).all()
        assert found.labels == tuple("012345")


@pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not beside the repository")
@pytest.mark.parametrize("part, count", [("train", 60000), ("t10k", 10000)])
def test_mnist(part: str, count: int) -> None:
    raw = gzip.decompress((MNIST / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    named = gzip.decompress((MNIST / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    pixel_sum, label_sum = {"train": (1567298545, 267236), "t10k": (264923200, 44434)}[part]
    assert (sum(raw), sum(named)) == (pixel_sum, label_sum)
    found = read(MNIST / f"{part}-images-idx3-ubyte.gz")
    assert found.raw.shape == (count, 28, 28, 1) and found.form.levels == 256
    assert int(found.raw.sum(dtype=np.int64)) == pixel_sum
    assert sum(int(label) for label in found.labels if label) == label_sum
    assert found.raw.tobytes() == raw


def test_parquet(tmp_path: Path) -> None:
    import datasets

    pixels = noise(5, 4, 6, 3)
    table = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(p) for p in pixels], "label": [3, 1, 4, 1, 5]}
    )
    table.to_parquet(tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert (found.raw == pixels).all() and found.labels == ("3", "1", "4", "1", "5")
    with pytest.raises(DataError, match="no column 'pic'.*image, label"):
        read(tmp_path / "a.parquet", column="pic")


def test_paths_and_lists_in_tables(tmp_path: Path) -> None:
    pixels = noise(2, 3, 4, top=200)
    names = [tmp_path / f"{number}.png" for number in range(2)]
    for name, each in zip(names, pixels, strict=True):
        Image.fromarray(each).save(name)
    (tmp_path / "a.csv").write_text(f"file,label\n{names[0]},cat\n{names[1]},dog\n")
    rows = [json.dumps({"x": each.tolist(), "y": n}) for n, each in enumerate(pixels)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    for name, labels in (("a.csv", ("cat", "dog")), ("a.jsonl", ("0", "1"))):
        found = read(tmp_path / name)
        assert (found.raw[..., 0] == pixels).all() and found.labels == labels


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]
GREY = {"1", "L", "LA", "I", "I;16", "F"}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 4)])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_and_size(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    height, width = size
    grey = noise(height, width)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "PA":
        image = Image.fromarray(noise(height, width, 3)).convert("P").convert("PA")
    elif mode in GREY:
        image = Image.fromarray(grey).convert(mode)
    else:
        image = Image.fromarray(noise(height, width, 3)).convert(mode)
    name = "a.png" if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "a.tif"
    if mode in ("HSV", "YCbCr", "PA"):
        image = image.convert("RGBA" if mode == "PA" else "RGB")
    image.save(tmp_path / name)
    found = read(tmp_path / name)
    assert found.raw.shape == (1, height, width, 1 if mode in GREY else 3)
    assert found.form.levels == (2 if mode == "1" else 256)
    if mode in ("L", "I", "I;16", "F"):
        assert (found.raw[0, :, :, 0] == grey).all()
    if mode == "RGB":
        assert (found.raw[0] == noise(height, width, 3)).all()


def test_what_is_transparent_is_laid_on_white(tmp_path: Path) -> None:
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    Image.fromarray(clear).save(tmp_path / "a.png")
    assert (
        read(tmp_path / "a.png").raw[0].reshape(4, 3).tolist() == [[10, 20, 30]] + [[255] * 3] * 3
    )


def test_photographs_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(8, 16)).save(tmp_path / "a.jpg", exif=exif)
    assert read(tmp_path / "a.jpg").raw.shape == (1, 16, 8, 1)


# -- one form for all ----------------------------------------------------------------------------


def test_mixed_sizes_and_modes_are_brought_together_and_counted(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(noise(4, 4, seed=number)).save(tmp_path / f"{number}.png")
    Image.fromarray(noise(8, 6, 3)).save(tmp_path / "3.png")
    Image.fromarray(noise(4, 4, 3)).convert("P").save(tmp_path / "4.png")
    found = read(tmp_path)
    assert found.raw.shape == (5, 4, 4, 3)
    said = "5 pictures, 4x4 colour, 256 levels; 1 resized; 3 made colour; 1 with a palette"
    assert found.description.lines == (said,)
    found = read(tmp_path, grey=True, pixels="2x3")
    assert found.raw.shape == (5, 2, 3, 1)
    said = "5 pictures, 2x3 grey, 256 levels; 5 resized; 2 made grey; 1 with a palette"
    assert found.description.lines == (said,)


def test_large_pictures_are_made_small_and_said_so(tmp_path: Path) -> None:
    Image.fromarray(noise(300, 200)).save(tmp_path / "a.png")
    found = read(tmp_path)
    assert found.raw.shape == (1, 64, 43, 1)
    assert found.description.lines == ("1 picture, 64x43 grey, 256 levels; 1 resized",)


def test_levels(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(256, dtype=np.uint8).reshape(1, 16, 16))
    for levels in (2, 3, 16, 255, 256):
        values = read(tmp_path / "a.npy", levels=levels).pixels().reshape(-1)
        assert values.tolist() == [v * levels // 256 for v in range(256)]
    with pytest.raises(UsageError, match="--levels 300: must be 2 to 256"):
        read(tmp_path / "a.npy", levels=300)


def test_few_levels_stay_few(tmp_path: Path) -> None:
    """Resized arrays keep their own alphabet; other data is brought to the one trained on."""
    np.save(tmp_path / "a.npy", np.full((3, 4, 4), 16, np.uint8))
    found = read(tmp_path / "a.npy", pixels="2x3")
    assert (found.raw == 16).all() and found.form == Form(2, 3, 1, 17, 17)
    np.save(tmp_path / "b.npy", np.full((3, 2, 3), 255, np.uint8))
    assert (read(tmp_path / "b.npy").converted_to(found.form).raw == 16).all()
    np.save(tmp_path / "c.npy", np.full((3, 2, 3), 9, np.uint8))
    assert (read(tmp_path / "c.npy").converted_to(found.form).raw == 9).all()


def test_binarise(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (200, 1))[None]
    np.save(tmp_path / "a.npy", ramp)
    options = {"pixels": "200x256"}
    sharp = read(tmp_path / "a.npy", binarise="threshold", **options).pixels()
    assert (sharp[0, 0, :, 0] == (np.arange(256) > 127)).all()
    drawn = read(tmp_path / "a.npy", binarise="stochastic", **options)
    mean = drawn.pixels()[0, :, :, 0].mean(axis=0)
    assert np.abs(mean - np.arange(256) / 255).max() < 0.15 and mean[0] == 0 and mean[255] == 1
    again = read(tmp_path / "a.npy", binarise="stochastic", **options)
    assert (again.pixels() == drawn.pixels()).all()  # fixed by the picture
    other = quantised(drawn.raw, drawn.form, np.array([5]))
    assert (other != drawn.pixels()).mean() > 0.1  # redrawn in training


def test_equal_pictures_stay_together(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.tile(noise(20, 4, 4), (5, 1, 1)))
    train, held = read(tmp_path / "a.npy").split(0.3)
    assert len(train) + len(held) == 100
    assert not {p.tobytes() for p in train.raw} & {p.tobytes() for p in held.raw}
    np.save(tmp_path / "b.npy", np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(DataError, match="at least 2 different ones"):
        read(tmp_path / "b.npy").split(0.1)


@pytest.mark.parametrize(
    "form, patch",
    [
        (Form(28, 28, 1, 2, 2), (2, 2)),
        (Form(8, 8, 1, 17, 17), (1, 1)),
        (Form(64, 64, 1, 2, 2), (4, 2)),
        (Form(32, 32, 3), (1, 1)),
    ],
)
def test_patches_grow_with_the_picture(form: Form, patch: tuple[int, int]) -> None:
    assert exact_patch(form) == patch


# -- what is wrong -------------------------------------------------------------------------------


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is large and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 20_000])
def test_a_bomb_is_refused_by_its_size(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(png_of(side, side))
    with pytest.raises(DataError, match="a.png: .*64,000,000 pixels at most"):
        read(tmp_path / "a.png")


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(noise(40, 40, 3)).save(whole, "PNG")
    for number in range(3):
        Image.fromarray(noise(8, 8, seed=number)).save(tmp_path / f"{number}.png")
    bad = tmp_path / "bad.png"
    for damage in (b"", b"no picture", whole.getvalue()[:300], png_of(20_000, 20_000)):
        bad.write_bytes(damage)
        with pytest.raises(DataError, match=r"bad\.png"):
            read(tmp_path)
        found = read(tmp_path, skip_bad=True, pixels="8x8", grey=True)
        assert len(found) == 3
        assert found.description.record["left_out"] == [f"1 unreadable: {bad}"]


@pytest.mark.parametrize("cut", [3, 10, 40])
def test_damaged_arrays_are_named(tmp_path: Path, cut: int) -> None:
    np.savez(tmp_path / "a.npz", x=noise(3, 4, 4))
    np.save(tmp_path / "a.npy", noise(3, 4, 4))
    write_idx(tmp_path / "images-idx3.gz", noise(3, 4, 4))
    for name in ("a.npz", "a.npy", "images-idx3.gz"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-cut])
        with pytest.raises(DataError, match=name.split(".")[0]):
            read(path)


@pytest.mark.parametrize(
    "array, says",
    [
        (np.zeros((2, 5, 5, 5)), "no picture"),
        (np.full((2, 3, 4), -3), "pixels from -3 to -3 are in no usual range.*--range"),
        (np.full((2, 3, 4), np.nan), "not finite"),
        (np.array([["a"]]), "no pixels"),
        (np.zeros((0, 3, 4), np.uint8), "no pixels"),
        (np.zeros((3, 0, 4), np.uint8), "no pixels"),
    ],
)
def test_arrays_that_are_no_pictures(tmp_path: Path, array: np.ndarray, says: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=says):
        read(tmp_path / "a.npy")


def test_wrong_options_name_their_flag(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=noise(9, 4, 4))
    for options, flag in (
        ({"pixels": "big"}, "--pixels"),
        ({"patch": "0"}, "--patch"),
        ({"stages": 0}, "--stages"),
        ({"label_weight": -1.0}, "--label-weight"),
        ({"labels": "last"}, "--labels last"),
        ({"patch": "3", "labels": "none"}, "--patch 3x3"),
        ({"binarise": "threshold", "levels": 4}, "--binarise"),
    ):
        with pytest.raises(TfmError, match=flag):
            task = ImageTask(ImageOptions(**options))
            task.fit_tokenizer("patches:exact", task.items(Source((str(tmp_path / "a.npz"),))))


# -- floors and shows ----------------------------------------------------------------------------


def test_the_histogram_of_known_chances() -> None:
    """Independent pixels: close to their entropy."""
    train = (noise(20_000, 2, 2, 1) < 64).astype(np.uint8)
    held = (noise(5_000, 2, 2, 1, seed=1) < 64).astype(np.uint8)
    entropy = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert abs(histogram(train, held, 2) - entropy) < 0.02


@pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not beside the repository")
def test_floors_of_mnist_are_the_known_ones() -> None:
    """1.689 bits per dim with a histogram for each pixel; 205.8 nats binarised."""
    train = read(MNIST / "train-images-idx3-ubyte.gz")
    held = read(MNIST / "t10k-images-idx3-ubyte.gz")
    assert abs(histogram(train.pixels(), held.pixels(), 256) - 1.689) < 0.01
    form = Form(28, 28, 1, 256, 2, "stochastic")
    bits = histogram(train.converted_to(form).pixels(), held.converted_to(form).pixels(), 2)
    assert abs(bits * 784 * np.log(2) - 205.8) < 0.5


def test_png_counts_its_header_once() -> None:
    assert png(np.zeros((500, 8, 8, 1), np.uint8), 17) < 0.1
    assert 7.9 < png(noise(500, 8, 8, 1), 256) < 8.2
    assert 0.99 < png(noise(500, 8, 8, 1, top=2), 2) < 1.3


def test_a_grid_holds_every_picture() -> None:
    pictures = [np.full((3, 2, 1), level, np.uint8) for level in range(5)]
    sheet = np.asarray(Image.open(io.BytesIO(grid(pictures, 5, 1))))
    assert sheet.shape == (2 * 4 + 1, 3 * 3 + 1)
    assert [int(sheet[1, 1]), int(sheet[1, 4]), int(sheet[5, 4])] == [0, 64, 255]
    one = np.asarray(Image.open(io.BytesIO(grid(pictures[4:], 5))))
    assert one.shape == (3, 2) and (one == 255).all()


def test_a_terminal_picture_fits() -> None:
    for height, width, columns in ((8, 8, 80), (28, 28, 80), (64, 64, 40), (1, 1, 20), (1, 50, 20)):
        text = terminal_picture([noise(height, width, 3)] * 5, 256, columns)
        assert all(len(line) <= columns for line in text.splitlines()) and text.strip()


# -- the command line ----------------------------------------------------------------------------


def train(folder: Path, name: str, *flags: str) -> str:
    Tfm(folder)("train", "--task", "image", "--steps", "3", "--size", "nano", "--run", name, *flags)
    return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures of three kinds, which labels tell apart."""
    folder = tmp_path_factory.mktemp("images")
    pixels = noise(60, 6, 6, top=100)
    labels = np.arange(60) % 3
    pixels[labels == 1, :3] += 150
    pixels[labels == 2, 3:] += 150
    np.savez(folder / "a.npz", x=pixels, y=labels)
    for number in range(40):
        at = folder / "photos" / ("left" if number % 2 else "right")
        at.mkdir(exist_ok=True, parents=True)
        Image.fromarray(noise(12, 16, 3, seed=number)).save(at / f"{number}.png")
    return folder


def test_digits_by_default(folder: Path) -> None:
    done = Tfm(folder)("train", "--task", "image", "--steps", "3", "--size", "nano", "--json")
    scores = done.json()
    assert scores["unit"] == "dim" and scores["bits_per_dim"] > 0
    assert set(scores["floor"]) == {"histogram", "png"} and scores["levels"] == 17
    per_image = scores["bits_per_dim"] * 64 * np.log(2)
    assert scores["nats_per_image"] == pytest.approx(per_image)
    said = "1,797 pictures, 8x8 grey, 17 levels, 10 labels (0, 1, 2, 3, 4, 5 ...) before the pixels"
    assert said in done.err
    assert done.err.count("█") > 20  # a preview


def test_a_label_is_drawn(folder: Path) -> None:
    run = train(folder, "first", "--data", "a.npz")
    Tfm(folder)("sample", run, "--label", "2", "-n", "6", "--out", "grid.png")
    sheet = Image.open(io.BytesIO((folder / "grid.png").read_bytes()))
    assert sheet.size[0] > 250 and sheet.size[0] / sheet.size[1] == pytest.approx(22 / 15)
    done = Tfm(folder)("sample", run)
    assert np.asarray(Image.open(io.BytesIO(done.out))).shape == (6, 6)
    record = Tfm(folder)("sample", run, "--json").json()
    assert len(record["tokens"]) == 37 and record["finish_reason"] == "end"
    said = Tfm(folder).error("sample", run, "--label", 9)
    assert "label 9: not one of those trained on: 0, 1, 2" in said


def test_a_picture_is_completed(folder: Path) -> None:
    run = train(folder, "none", "--data", "a.npz", "--labels", "none", "--patch", "1")
    half = noise(6, 6, top=200, seed=9)
    Image.fromarray(half).save(folder / "half.png")
    Image.fromarray(half[:4]).save(folder / "top.png")
    for name, rows, more in (("half.png", 2, ["--rows", "2"]), ("top.png", 4, [])):
        done = Tfm(folder)("sample", run, "-p", name, *more)
        image = np.asarray(Image.open(io.BytesIO(done.out)))
        assert (image[:rows] == half[:rows]).all() and (image[rows:] != half[rows:]).any()
    piped = Tfm(folder)(
        "sample", run, "-p", "-", "--rows", 2, stdin=(folder / "half.png").read_bytes()
    )
    assert (np.asarray(Image.open(io.BytesIO(piped.out)))[:2] == half[:2]).all()
    for args, says in (
        (["-p", "half.png"], "--rows"),
        (["-p", "half.png", "--rows", "9"], "--rows 9"),
        (["-p", "nothing.png"], "no such file"),
        (["-p", "a.npz", "--rows", "1"], "damaged"),
        (["--label", "1"], "--labels first"),
        (["--rows", "3"], "-p FILE"),
    ):
        assert says in Tfm(folder).error("sample", run, *args)


def test_labels_behind_the_pixels_are_classified(folder: Path) -> None:
    flags = ("--labels", "last", "--levels", "4", "--patch", "2", "--label-weight", "5")
    run = train(folder, "last", "--data", "a.npz", *flags)
    scores = Tfm(folder)("eval", run, "--json").json()
    assert 0 <= scores["accuracy"] <= 1 and scores["tokens"] == scores["images"] * 10
    again = Tfm(folder)("eval", run, "--data", "a.npz", "--json").json()
    assert again["images"] == 60 and again["floor"] is None
    Tfm(folder)("sample", run, "-n", "2", "--out", "two.png")


def test_a_codebook_reports_psnr_and_no_bits(folder: Path) -> None:
    run = train(folder, "photos-run", "--data", "photos", "--tokenizer", "patches:32")
    scores = Tfm(folder)("eval", run, "--json").json()
    assert scores["bits_per_dim"] is None and scores["nats_per_image"] is None
    assert 5 < scores["psnr"] < 60
    done = Tfm(folder)("sample", run, "--label", "left")
    assert np.asarray(Image.open(io.BytesIO(done.out))).shape == (12, 16, 3)


def test_a_run_goes_on_with_the_same_pictures(folder: Path) -> None:
    flags = ["--data", "photos", "--binarise", "stochastic", "--labels", "none"]
    train(folder, "short", *flags)
    Tfm(folder)("train", "--resume", "short", "--steps", "5")
    Image.fromarray(noise(12, 16, 3, seed=99)).save(folder / "photos" / "left" / "new.png")
    assert "has changed since" in Tfm(folder).error("train", "--resume", "short", "--steps", "7")


def test_the_task_is_guessed_and_faults_are_one_line(folder: Path) -> None:
    done = Tfm(folder)("train", "--data", "a.npz", "--steps", "1", "--size", "nano")
    assert "looks like --task image" in done.err
    (folder / "bad.png").write_bytes(b"nothing")
    said = Tfm(folder).error("train", "--data", "bad.png", "--steps", "1")
    assert said.startswith("Error: bad.png: damaged")
    Tfm(folder).error("sample", "first", "--out", "nowhere/a.png")


def test_one_pixel_pictures(folder: Path) -> None:
    np.save(folder / "dots.npy", noise(50, 1, 1))
    run = train(folder, "dots", "--data", "dots.npy")
    done = Tfm(folder)("sample", run)
    assert Image.open(io.BytesIO(done.out)).size == (1, 1)
