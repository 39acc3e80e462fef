"""Boxes in space: the shapes of tensors, without overlap, in the order of computation."""

from __future__ import annotations

from itertools import combinations

import pytest
from test_capture import VARIANTS, inputs, model_of

from tfm.core.capture import capture
from tfm.core.view.layout import Box, layout, shapes


def boxes_of(name: str) -> tuple[list[Box], dict[str, tuple[int, ...]]]:
    model = model_of(name)
    ids, source = inputs(model)
    lengths = len(ids), 0 if source is None else len(source)
    return layout(model.config, *lengths), shapes(model.config, *lengths)


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_are_those_that_are_captured(name: str) -> None:
    model = model_of(name)
    ids, source = inputs(model)
    found = capture(model, ids, source=source)
    expected = {key: tuple(value.shape) for key, value in found.items()}
    assert shapes(model.config, len(ids), 0 if source is None else len(source)) == expected


@pytest.mark.parametrize("name", VARIANTS)
def test_boxes_do_not_overlap(name: str) -> None:
    boxes, _ = boxes_of(name)

    def apart(one: Box, other: Box) -> bool:
        spans = (
            (one.x, one.x + one.columns, other.x, other.x + other.columns),
            (one.y, one.y + one.rows, other.y, other.y + other.rows),
            (one.z, one.z + 1, other.z, other.z + 1),
        )
        return any(a_end <= b or b_end <= a for a, a_end, b, b_end in spans)

    assert all(apart(one, other) for one, other in combinations(boxes, 2))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_tensor_has_its_boxes(name: str) -> None:
    """Each head of each tensor once, as large as its matrix; what has none equals another one."""
    model = model_of(name)
    boxes, sizes = boxes_of(name)
    ids, source = inputs(model)
    found = capture(model, ids, source=source)
    seen = {box.tensor for box in boxes}
    for tensor, shape in sizes.items():
        own = [box for box in boxes if box.tensor == tensor]
        if tensor == "logits":
            assert [(box.columns, box.rows) for box in own] == [(shape[0], min(shape[1], 64))]
        elif tensor in seen:
            by_query = tensor.endswith(("attn_scores", "pattern"))
            heads, rows, columns = (
                shape if by_query else (shape[1], shape[2], shape[0])
            ) if len(shape) == 3 else (1, shape[1], shape[0])  # fmt: skip
            assert [(box.columns, box.rows) for box in own] == [(columns, rows)] * heads
            assert [box.head for box in own] == ([*range(heads)] if len(shape) == 3 else [None])
        else:
            same = [other for other in seen if sizes[other] == shape]
            assert any(found[other].equal(found[tensor]) for other in same), tensor


@pytest.mark.parametrize("name", VARIANTS)
def test_wings_stand_in_the_order_of_computation(name: str) -> None:
    """The stream goes into depth, mixers to its left and feed-forward layers to its right; within a
    wing what is computed later stands further right, in one plane."""
    boxes, _ = boxes_of(name)
    for stack in ("encoder", "blocks"):
        stream = [b for b in boxes if b.part == "stream" and b.tensor.startswith(stack)]
        depths = [box.z for box in stream]
        assert depths == sorted(set(depths))
        middles = {box.x + box.columns / 2 for box in stream}
        assert len(middles) <= 1
        for part in ("mixer", "cross", "ffn"):
            for block in {box.block for box in stream}:
                wing = [
                    b
                    for b in boxes
                    if b.part == part and b.block == block and b.tensor.startswith(stack)
                ]
                assert len({box.z for box in wing}) <= 1
                edges = [box.x for box in wing]
                assert edges == sorted(edges)
                (middle,) = middles
                left = part != "ffn"
                assert all((box.x < middle) is left for box in wing)


def test_sizes_grow_with_the_model() -> None:
    """Ratios of boxes are those of shapes, whatever the size of the model."""
    from tfm.core.config import ModelConfig

    config = ModelConfig(vocab_size=50_000, layers=12, heads=12, width=768, context=1024)
    boxes = {(box.tensor, box.head): box for box in layout(config, 64)}
    stream, hidden = boxes["blocks.3.hook_resid_post", None], boxes["blocks.3.mlp.hook_post", None]
    assert (stream.columns, stream.rows) == (64, 768)
    assert hidden.rows == 4 * stream.rows and hidden.columns == stream.columns
    assert (boxes["blocks.3.attn.hook_q", 11].rows, boxes["logits", None].rows) == (64, 64)
