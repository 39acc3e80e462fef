"""The pixels of each patch of a picture and of the patches around it, as numbers beside its id."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# (rows, columns) from a patch to itself and to its neighbours that come before it in raster order
BEFORE = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0))


def surroundings(blocks: npt.NDArray[np.uint8], levels: int) -> npt.NDArray[np.float32]:
    """(N, rows * columns, len(BEFORE) * values) pixels from patches (N, rows, columns, values) in
    `levels` values: from -1 to 1, and 0 outside the picture. None comes later in raster order, so
    that a model which reads them still has to predict the next patch.

    With them, the first layer of a model sees pixels and edges across patches, as a convolution of
    a vision transformer does (Xiao et al. 2021, Early Convolutions Help Transformers See Better).
    """
    count, rows, columns, values = blocks.shape
    shades = blocks.astype(np.float32) * (2 / max(levels - 1, 1)) - 1
    padded = np.zeros((count, rows + 1, columns + 2, values), np.float32)
    padded[:, 1:, 1:-1] = shades
    parts = [padded[:, 1 + y : 1 + y + rows, 1 + x : 1 + x + columns] for y, x in BEFORE]
    return np.concatenate(parts, axis=-1).reshape(count, rows * columns, -1)
