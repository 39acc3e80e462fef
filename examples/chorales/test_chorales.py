import numpy as np
import pytest
from tfm_chorales import (
    PITCHES,
    REST,
    WINDOW,
    Chorale,
    ChoraleTask,
    ChoraleTokenizer,
    midi,
    windows,
)

from tfm.core.data.item_list import ItemList
from tfm.core.laws import check_tokenizer


def random_chorale(seed: int, steps: int) -> Chorale:
    return np.random.default_rng(seed).choice([REST, *PITCHES], (steps, 4)).tolist()


def test_laws() -> None:
    check_tokenizer(ChoraleTokenizer(), [random_chorale(n, 1 + n) for n in range(20)])


def test_an_unfinished_step_is_left_out() -> None:
    sequence = ChoraleTokenizer().encode([[60, 57, 53, 48], [62, 59, 55, 43]])
    assert ChoraleTokenizer().decode(sequence.ids[:-1], {}) == [[60, 57, 53, 48]]


def test_windows_are_cut_between_steps() -> None:
    piece = random_chorale(0, 2 * WINDOW + 4)
    cut = list(windows(piece))
    assert [len(window) for window in cut] == [WINDOW, WINDOW, 4]
    assert [step for window in cut for step in window] == piece


def test_held_notes_are_one_note() -> None:
    held = [[60, 57, 53, REST]] * 3 + [[60, 58, 53, REST]]
    track = midi(held)[22:]
    assert track.count(b"\x90\x3c") == 1 and track.count(b"\x91") == 2 and b"\x93" not in track
    assert track.endswith(b"\xff\x2f\x00")


def test_floors_of_a_chorale_that_never_moves() -> None:
    chorales = ItemList([[[60, 57, 53, 48]] * 9] * 20, "one chord")
    task = ChoraleTask(ChoraleTask.Options())
    assert all(0 < bits < 0.01 for bits in task.floor(chorales, chorales).values())


@pytest.mark.parametrize("data", [b"[[[1, 2, 3]]]", b"[[1, 2, 3, 200]]", b"[[1.5, 2, 3, 4]]", b"x"])
def test_what_is_no_chorale_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        ChoraleTask(ChoraleTask.Options()).read(data)
