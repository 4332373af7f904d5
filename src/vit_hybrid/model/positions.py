"""Learned position embeddings for another grid of patches, as each code base computes them."""

import torch
from torch import nn

RESIZE_MODES = ("bicubic", "bilinear", "bilinear-jax")


def resize_positions(
    positions: torch.Tensor,
    from_grid: tuple[int, int],
    to_grid: tuple[int, int],
    mode: str = "bicubic",
    antialias: bool = False,
) -> torch.Tensor:
    """Position embeddings (1, 1 + rows * columns, D) of `from_grid`, for `to_grid`; the class token's stays as it is.

    Args:
        positions: The learned embeddings, the class token's first.
        from_grid: (rows, columns) they were learned for.
        to_grid: (rows, columns) wanted.
        mode: "bicubic" (transformers, timm), "bilinear", or "bilinear-jax": the authors' `scipy.ndimage.zoom` of order
            1, which lays the corner patches of the two grids on each other.
        antialias: Whether shrinking averages over all patches under the filter, as timm does.

    Raises:
        ValueError: If `mode` is none of these.
    """
    if mode not in RESIZE_MODES:
        raise ValueError(f"mode is {mode!r}; give one of {', '.join(RESIZE_MODES)}.")
    class_position, patch_positions = positions[:, :1], positions[:, 1:]
    if positions.dtype in (torch.float16, torch.bfloat16):
        patch_positions = patch_positions.float()
    patch_positions = patch_positions.unflatten(1, from_grid).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    if mode == "bilinear-jax":
        resized = nn.functional.interpolate(patch_positions, size=to_grid, mode="bilinear", align_corners=True)
    else:
        resized = nn.functional.interpolate(
            patch_positions, size=to_grid, mode=mode, align_corners=False, antialias=antialias
        )
    resized = resized.flatten(2).transpose(1, 2).to(positions.dtype)
    return torch.cat((class_position, resized), dim=1)
