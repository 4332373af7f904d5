"""Where the tokens look: attention of single layers and heads, and attention rollout. NumPy alone.

Shapes: L layers, H heads, T = 1 + rows * columns tokens, the class token's first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from ..errors import argument
from .methods import DEFAULT_FUSION, FUSIONS

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def fused(attention: Array, fusion: str = DEFAULT_FUSION) -> Array:
    """(T, T) of a layer's attention weights (H, T, T).

    Raises:
        ValueError: If `fusion` is none of `FUSIONS`.
    """
    check_fusion(fusion)
    return getattr(np, fusion)(np.asarray(attention, np.float64), axis=0)


def check_fusion(fusion: str) -> None:
    """Raises `ValueError` where that is no way to make one matrix of the heads."""
    if fusion not in FUSIONS:
        raise ValueError(f"{argument('fusion')} is {fusion!r}; expected {', '.join(FUSIONS)}.")


def check_discard(discard: float) -> None:
    """Raises `ValueError` where `rollout` cannot leave out that share."""
    if not 0 <= discard < 1:
        raise ValueError(f"{argument('discard')} is {discard:g}; expected a share of 0 or more and below 1.")


def check_token(grid: tuple[int, int], token: tuple[int, int] | None) -> None:
    """Raises `ValueError` where there is no such (row, column) among tokens in that many (rows, columns)."""
    rows, columns = grid
    if token is not None and not (0 <= token[0] < rows and 0 <= token[1] < columns):
        raise ValueError(
            f"{argument('token')} is {token[0]},{token[1]}; the tokens stand in {rows} rows and {columns} columns, "
            f"counted from 0: expected 0,0 to {rows - 1},{columns - 1}."
        )


def rollout(attentions: Iterable[Array], fusion: str = DEFAULT_FUSION, discard: float = 0.0) -> Array:
    """Attention rollout (Abnar and Zuidema, arXiv 2005.00928), as appendix D.7 of arXiv 2010.11929 uses it.

    Of each layer the heads become one matrix A; 0.5 A + 0.5 I stands for attention beside the residual, its rows made
    to sum to one; the matrices are multiplied, the last layer's to the left.

    Args:
        attentions: The attention weights of the layers, in order, (H, T, T) each.
        fusion: What makes one matrix of the heads, of `FUSIONS`.
        discard: The share of each layer's weights, the smallest, that count as zero; what the class token gives itself
            always counts.

    Returns:
        (T, T), float64: how much of each token (column) has come into each token behind the last layer (row).

    Raises:
        ValueError: If `fusion` or `discard` is none, or there is no layer.
    """
    check_discard(discard)
    product: Array | None = None
    for attention in attentions:
        weights = fused(attention, fusion)
        if discard:
            weights = _without_smallest(weights, discard)
        mixed = 0.5 * weights + 0.5 * np.eye(len(weights))
        mixed /= mixed.sum(axis=-1, keepdims=True)
        product = mixed if product is None else mixed @ product
    if product is None:
        raise ValueError("the encoder has no layers, so nothing of the picture comes into the class token.")
    return product


def _without_smallest(weights: Array, share: float) -> Array:
    kept = weights.ravel().copy()
    smallest = np.argsort(kept, kind="stable")[: int(share * kept.size)]
    kept[smallest[smallest != 0]] = 0.0
    return kept.reshape(weights.shape)


def row_of(matrix: Array, grid: tuple[int, int], token: tuple[int, int] | None = None) -> Array:
    """What a token looks at, or is made of: its row of (T, T) as a map (rows, columns), the class token left out.

    Args:
        matrix: Of `rollout` or `fused`.
        grid: (rows, columns) of the tokens.
        token: (row, column) of the token, from 0; the class token by default.

    Raises:
        ValueError: If there is no such token.
    """
    check_token(grid, token)
    index = 0 if token is None else 1 + token[0] * grid[1] + token[1]
    return matrix[index, 1:].reshape(grid)


__all__ = ["Array", "check_discard", "check_fusion", "check_token", "fused", "rollout", "row_of"]
