"""Figure 7 of arXiv 2010.11929 for any checkpoint: what the model itself shows, whatever the picture.

Its left panel, the first components of the patch embedding, makes way for the filters of the ResNet's stem, which a
hybrid has in their place.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import mark, whole_folder
from ..model.geometry import token_grid
from .attention import Array
from .drawing import colored, fitting, png, scaled
from .hybrid import Explainable, as_hybrid
from .passes import attention_names, through

# Of the figure, in pixels: a panel's side, what is around it, and the height of its letters.
PANEL = 420
MARGIN = 60
LETTERS = 14
# Lines of a scale, about so many.
TICKS = 5
DOT = 3  # its radius


@dataclass(frozen=True)
class Figure:
    """What the figure shows, in numbers.

    Attributes:
        similarity: (rows, columns, rows, columns) the cosine of the angle between the position embeddings of two
            patches.
        distances: (layers, heads) how far away a patch looks on average, in pixels of the model's input: the distances
            between patches, weighted by attention, with what goes to the class token left out.
        filters: (channels, input channels, k, k) the stem's, standardized as they are used.
        pictures: How many pictures the distances are of.
    """

    similarity: Array
    distances: Array
    filters: Array
    pictures: int


def figure(model: Explainable, pictures: Iterable[Array]) -> Figure:
    """What figure 7 shows of a model.

    Args:
        model: The classifier, which stays as it is.
        pictures: What the model takes of pictures, (C, H, W) each, of one size; the paper's figure is of 128.

    Raises:
        ValueError: If there is no picture, or one does not fit the model.
    """
    hybrid = as_hybrid(model)
    names = attention_names(hybrid)
    found = []
    for pixels in pictures:
        with through(hybrid, pixels, names) as run:
            height, width = pixels.shape[-2:]
            pitch = height / run.grid[0], width / run.grid[1]
            found.append([attention_distance(run.value(name), run.grid, pitch) for name in names])
    if not found:
        raise ValueError("the distances over which a model attends are of pictures, and there is none.")
    return Figure(
        similarity=position_similarity(_numbers(hybrid.position_embeddings)[0, 1:], token_grid(hybrid.config)),
        distances=np.mean(found, axis=0),
        filters=_numbers(hybrid.stem_filters),
        pictures=len(found),
    )


def position_similarity(positions: Array, grid: tuple[int, int]) -> Array:
    """(rows, columns, rows, columns) cosines of position embeddings (rows * columns, D)."""
    lengths = np.linalg.norm(positions, axis=-1, keepdims=True)
    directions = positions / np.maximum(lengths, np.finfo(np.float64).tiny)
    return (directions @ directions.T).reshape(*grid, *grid)


def attention_distance(attention: Array, grid: tuple[int, int], pitch: tuple[float, float]) -> Array:
    """(H,) how far away the patches look on average, weighted by attention (H, T, T), in pixels.

    Args:
        attention: The weights of a layer, the class token's first; they are left out.
        grid: (rows, columns) of the patches.
        pitch: (height, width) of a patch in pixels.
    """
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    distances = np.hypot((rows[:, None] - rows) * pitch[0], (columns[:, None] - columns) * pitch[1])
    weights = np.asarray(attention, np.float64)[:, 1:, 1:]
    weights = weights / np.maximum(weights.sum(axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    return (weights * distances).sum(axis=-1).mean(axis=-1)


def _numbers(tensor: Any) -> Array:
    return tensor.detach().double().cpu().numpy()


# --- As a picture -----------------------------------------------------------------------------------------------------


def drawn(found: Figure, title: str) -> Image.Image:
    """The three panels side by side: the stem's filters, similar positions, distances by depth."""
    panels = [
        ("filters of the stem", _filters(found.filters)),
        ("similarity of position embeddings", _positions(found.similarity)),
        ("mean attention distance (pixels), a dot a head", _distances(found.distances)),
    ]
    sheet = Image.new("RGB", (len(panels) * (PANEL + 2 * MARGIN), PANEL + 3 * MARGIN), "white")
    pencil = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(LETTERS)
    pencil.text((MARGIN, MARGIN // 3), title.encode("ascii", "backslashreplace").decode(), fill="black", font=font)
    for place, (name, panel) in enumerate(panels):
        left = place * (PANEL + 2 * MARGIN) + MARGIN
        pencil.text((left, MARGIN), name, fill="black", font=font)
        offset = MARGIN if panel.width > PANEL else 0  # of axes, which stand beside the panel
        sheet.paste(panel, (left - offset, 3 * MARGIN // 2))
    return sheet


def _filters(filters: Array) -> Image.Image:
    """Each filter from its least to its most, in color where there are three input channels."""
    channels = filters if filters.shape[1] == 3 else filters.mean(axis=1, keepdims=True).repeat(3, axis=1)
    tiles = np.stack([scaled(one) for one in channels]).transpose(0, 2, 3, 1)  # (out, k, k, 3)
    across = math.ceil(math.sqrt(len(tiles)))
    return _mosaic([(tile * 255).round().astype(np.uint8) for tile in tiles], across)


def _positions(similarity: Array) -> Image.Image:
    """For each patch the cosines with all patches, where it is in the picture."""
    rows, columns = similarity.shape[:2]
    tiles = [colored((similarity[row, column] + 1) / 2) for row in range(rows) for column in range(columns)]
    return _mosaic(tiles, columns)


def _mosaic(tiles: list[Array], across: int) -> Image.Image:
    """Small pictures (h, w, 3) of one size in rows, enlarged to fill a panel, with lines between them."""
    down = math.ceil(len(tiles) / across)
    height, width = tiles[0].shape[:2]
    scale = max(1, min((PANEL - across) // (across * width), (PANEL - down) // (down * height)))
    sheet = Image.new("RGB", (across * (width * scale + 1), down * (height * scale + 1)), "white")
    for place, tile in enumerate(tiles):
        row, column = divmod(place, across)
        enlarged = np.ascontiguousarray(tile.repeat(scale, axis=0).repeat(scale, axis=1))
        sheet.paste(Image.fromarray(enlarged), (column * (width * scale + 1), row * (height * scale + 1)))
    return sheet if max(sheet.size) <= PANEL else sheet.resize(fitting(sheet.size, PANEL))


def _distances(distances: Array) -> Image.Image:
    """A dot for each head over the depth of its layer, with axes."""
    layers = len(distances)
    step = _round_step(float(distances.max()) / TICKS)
    most = step * max(1, math.ceil(float(distances.max()) / step))
    sheet = Image.new("RGB", (PANEL + MARGIN, PANEL + MARGIN), "white")
    pencil, font = ImageDraw.Draw(sheet), ImageFont.load_default(LETTERS)
    for tick in range(round(most / step) + 1):
        y = PANEL - tick * step / most * PANEL * 0.95
        pencil.line([(MARGIN, y), (MARGIN + PANEL, y)], fill="#dddddd")
        pencil.text((MARGIN - 6, y), f"{tick * step:g}", fill="black", font=font, anchor="rm")
    for layer, heads in enumerate(distances, start=1):
        x = MARGIN + (layer - 0.5) / layers * PANEL
        if layers <= 4 * TICKS or layer % math.ceil(layers / TICKS / 4) == 0:
            pencil.text((x, PANEL + 6), str(layer), fill="black", font=font, anchor="mt")
        for distance in heads:
            y = PANEL - distance / most * PANEL * 0.95
            pencil.ellipse([(x - DOT, y - DOT), (x + DOT, y + DOT)], fill="#1f4e9c")
    pencil.text((MARGIN + PANEL // 2, PANEL + 26), "depth (layer)", fill="black", font=font, anchor="mt")
    return sheet


def _round_step(wanted: float) -> float:
    """The least of 1, 2, 5, 10, ... that is not below what is wanted."""
    if wanted <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= wanted * (1 - 1e-9))


def write(found: Figure, folder: str | os.PathLike[str], name: str, title: str) -> dict[str, str]:
    """Writes `NAME-model.png`, the figure, and `NAME-model.npz`, its numbers as `Figure` calls them; both or none.

    Returns:
        The paths of the files: `figure`, `numbers`.

    Raises:
        OSError: They cannot be written.
    """
    files = {"figure": f"{name}-model.png", "numbers": f"{name}-model.npz"}
    with whole_folder(folder, "fill") as unfinished:
        (unfinished / files["figure"]).write_bytes(png(drawn(found, title)))
        np.savez_compressed(unfinished / files["numbers"], **vars(found))
    mark(folder, [*files.values()])
    return {kind: os.path.join(folder, file) for kind, file in files.items()}


__all__ = ["Figure", "attention_distance", "drawn", "figure", "position_similarity", "write"]
