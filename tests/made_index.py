"""Indexes as `embed` writes them, of vectors that a test makes up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vit_hybrid.outputs import vectors
from vit_hybrid.outputs.vectors import Making

MADE = Making("some/model", "ab" * 32, "cd" * 32, 1)


def write_part(path: Path, rows: Sequence[np.ndarray | None], names: Sequence[str], made: Making) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table([pa.array(names), vectors.column(rows, made)], schema=vectors.schema(made))
    pq.write_table(table, path, row_group_size=7)


def write_index(
    folder: Path,
    rows: Sequence[np.ndarray | None],
    part_rows: int = 100,
    names: Sequence[str] = (),
    made: Making = MADE,
) -> Path:
    """A folder of parts of so many rows; the pictures are called 0.jpg, 1.jpg and so on where they have no names."""
    made = replace(made, dimension=next((len(row) for row in rows if row is not None), made.dimension))
    names = names or [f"{row}.jpg" for row in range(len(rows))]
    folder.mkdir(exist_ok=True)
    for number, start in enumerate(range(0, len(rows), part_rows)):
        inside = slice(start, start + part_rows)
        write_part(folder / f"part-{number:05d}.parquet", rows[inside], names[inside], made)
    return folder


def index_of_pictures(folder: Path, model: str, pictures: Sequence[Path], **options: str) -> Path:
    """The index that `embed` writes of some pictures with this model, on a CPU."""
    from vit_hybrid import predict

    predict.embed(pictures, folder, model=model, engine="torch", device="cpu", rows_per_part=4, **options)
    return folder


def made_pictures(folder: Path, number: int, seed: int = 0) -> list[Path]:
    """Pictures of noise around a color, no two alike."""
    from PIL import Image

    random = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.png" for name in range(number)]
    for path in paths:
        levels = random.integers(0, 200, 3) + random.integers(0, 56, (40, 48, 3))
        Image.fromarray(levels.astype(np.uint8)).save(path)
    return paths
