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


def index_of_pictures(folder: Path, model: str, pictures: Sequence[Path], made: dict[str, str] | None = None) -> Path:
    """The index of some pictures, as `embed` would write it with this model; null where one cannot be read."""
    from vit_hybrid.checkpoints import opening
    from vit_hybrid.images.preprocessing import Preprocessing
    from vit_hybrid.inference.features import Extractor

    source = opening.open(model)
    preprocessing = Preprocessing.from_dict(source.processor().to_dict())
    extractor = Extractor(source.classifier(), preprocessing)
    rows = [record.get("features") for record in extractor.stream(pictures)]
    about = {
        "model": model,
        "weights_sha256": source.provenance()["weights_sha256"],
        "preprocessing": vectors.fingerprint(preprocessing),
        **(made or {}),
    }
    return write_index(folder, rows, 4, [str(path) for path in pictures], replace(MADE, **about))


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
