"""Pictures of a run: the sample grid."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

COLUMNS = 10
MARGIN = 2


def sample_grid(gray: Tensor, prediction: Tensor, truth: Tensor) -> Image.Image:
    """Photos side by side, ten to a row: gray above, prediction below it, truth at the bottom.

    Args:
        gray: N x 1 x H x W in [0, 1].
        prediction: N x 3 x H x W in [0, 1].
        truth: N x 3 x H x W in [0, 1].

    Returns:
        An RGB image of up to ten columns and three rows for each ten photos.
    """
    columns = min(COLUMNS, len(gray))
    blocks = []
    for start in range(0, len(gray), columns):
        part = slice(start, start + columns)
        rows = [gray[part].expand(-1, 3, -1, -1), prediction[part], truth[part]]
        missing = columns - len(rows[0])
        blocks += [torch.cat([row, row.new_ones(missing, *row.shape[1:])]) for row in rows]
    cells = torch.stack(blocks)  # rows x columns x 3 x H x W
    cells = torch.nn.functional.pad(cells, (0, MARGIN, 0, MARGIN), value=1.0)
    rows_count, columns_count, _, height, width = cells.shape
    sheet = cells.permute(0, 3, 1, 4, 2).reshape(rows_count * height, columns_count * width, 3)
    return Image.fromarray((sheet.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy().astype(np.uint8))
