"""What races found, kept between runs: for this processor, these cores, these libraries and a model's shape.

A table is a file in the cache's folder. One that is damaged or of something else is passed over with a word, as is a
folder that cannot be written to; then engines are chosen as where nobody has measured. Loads neither torch nor
transformers.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..bundles.cache import CacheUnusable, cache_folder, key_of
from ..bundles.manifest import installed_version
from ..checkpoints.opening import Source
from ..errors import EngineWarning, one_line, shown
from ..files import replacing
from ..runtimes import ENGINES, PRECISIONS, RUNTIMES, usable_cores
from .devices import device_name
from .processor import processor
from .ways import Wanted, Way

FORMAT = "vit-hybrid tuning"
FORMAT_VERSION = 1
# Where in the cache's folder tables lie.
FOLDER = "tuned"
# Fields of a configuration that change no time: names, what training alone does, how the file came about.
NO_SHAPE = {
    *("id2label", "label2id", "num_labels", "problem_type", "architectures", "auto_map", "_name_or_path"),
    *("transformers_version", "dtype", "torch_dtype", "initializer_range", "_attn_implementation"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"),
}


@dataclass(frozen=True)
class Row:
    """What one way took.

    Attributes:
        way: The way.
        batch_size: Pictures that went through at once.
        seconds: The least that a batch took.
        rounds: How many it was timed in.
    """

    way: Way
    batch_size: int
    seconds: float
    rounds: int

    @property
    def seconds_a_picture(self) -> float:
        return self.seconds / self.batch_size


@dataclass(frozen=True)
class Table:
    """What a race found.

    Attributes:
        rows: All that came to their end.
    """

    rows: tuple[Row, ...] = ()

    def best(self, wanted: Wanted, batch_size: int) -> Row | None:
        """The fastest that is allowed, at the batch size nearest to what goes through; None where none was raced."""
        allowed = [row for row in self.rows if wanted.allows(row.way)]
        if not allowed:
            return None
        nearest = min(
            {row.batch_size for row in allowed},
            key=lambda size: (abs(math.log(size / batch_size)), size),
        )
        found = min((row for row in allowed if row.batch_size == nearest), key=lambda row: row.seconds)
        return found if wanted.threads is None else replace(found, way=replace(found.way, threads=wanted.threads))

    def best_of_all_batches(self, wanted: Wanted) -> Row | None:
        """The fastest a picture that is allowed, whatever its batch."""
        return min(
            (row for row in self.rows if wanted.allows(row.way)), key=lambda row: row.seconds_a_picture, default=None
        )

    def with_rows(self, rows: Iterable[Row]) -> Table:
        """With newer rows in place of those of the same precision."""
        newer = tuple(rows)
        raced = {row.way.precision for row in newer}
        return Table((*(row for row in self.rows if row.way.precision not in raced), *newer))

    def slower_than_wider(self) -> dict[str, str]:
        """By precision that gains nothing here, the wider one that is as fast: of one picture, best against best."""
        found: dict[str, str] = {}
        best = {one: self.best(Wanted(precision=one), 1) for one in PRECISIONS}
        for place, precision in enumerate(PRECISIONS):  # the widest first
            mine = best[precision]
            # bfloat16 and float16 are as wide as each other.
            wider = PRECISIONS[: 1 if precision == "f16" else place]
            for other in wider:
                theirs = best[other]
                if mine is not None and theirs is not None and mine.seconds >= theirs.seconds:
                    found.setdefault(precision, other)
        return found


def shape_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration's fields, as `config.json` has them, changes what a model costs."""
    kept = {name: value for name, value in fields.items() if name not in NO_SHAPE}
    return {
        name: shape_of(value) if isinstance(value, Mapping) and name == "backbone_config" else value
        for name, value in kept.items()
    }


def where(device: str = "cpu") -> dict[str, Any]:
    """What a race holds for besides the model: this processor, the cores of this process, these libraries.

    Args:
        device: "cpu", or what an accelerator calls itself.
    """
    return {**_here(), "cores": usable_cores(), "device": device}


@cache
def _here() -> dict[str, Any]:
    libraries = ("vit-hybrid", "transformers", *(RUNTIMES[name].package for name in ENGINES))
    return {**processor(), "libraries": {name: installed_version(name) for name in libraries}}


def is_anything_kept() -> bool:
    """Whether there is a table of whatever model."""
    try:
        return (cache_folder() / FOLDER).is_dir()
    except (CacheUnusable, OSError):
        return False


def read(shape: Mapping[str, Any], device: str = "cpu") -> Table | None:
    """What is kept for a model of this shape, here; None where nothing is.

    Args:
        shape: See `shape_of`.
        device: See `where`.
    """
    if not is_anything_kept():
        return None
    about = _about(shape, device)
    path = cache_folder() / FOLDER / _name(about)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _pass_over(path, f"cannot be read ({one_line(error)})")
        return None
    try:
        if (content["format"], content["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"its format is {content['format']!r}, {content['format_version']!r}")
        if content["about"] != json.loads(json.dumps(about)):
            _pass_over(path, "is of another machine, other libraries or another model")
            return None
        rows = tuple(_row(line) for line in content["rows"])
        return Table(rows)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _pass_over(path, f"is damaged ({one_line(error)})")
        return None


def keep(table: Table, shape: Mapping[str, Any], device: str = "cpu") -> Path | None:
    """Keeps a table; where that cannot be done, says so in a warning.

    Returns:
        The file; None where it was not kept.
    """
    about = _about(shape, device)
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "about": about,
        "rows": [asdict(row) for row in table.rows],
    }
    try:
        folder = cache_folder() / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _name(about)
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except (CacheUnusable, OSError) as error:
        why = getattr(error, "strerror", None) or one_line(error)
        warnings.warn(EngineWarning(f"what was measured cannot be kept ({why}), and holds for now"), stacklevel=2)
        return None
    return path


def measured(source: Source, wanted: Wanted, device: Any = None, batch_size: int | None = 1) -> Row | None:
    """What races found to be the fastest here for a model of this shape, of what is wanted; None where none was run.

    Args:
        source: The model.
        wanted: What was asked for by hand.
        device: As `load` takes it.
        batch_size: Pictures that go through at once; None for the number with which each takes least.
    """
    if wanted.precision is None or source.kind == "bundle" or not is_anything_kept():
        return None
    table = read(shape_of(source.fields()), device_name(device))
    if table is None:
        return None
    return table.best_of_all_batches(wanted) if batch_size is None else table.best(wanted, batch_size)


def _about(shape: Mapping[str, Any], device: str) -> dict[str, Any]:
    return {**where(device), "model": dict(shape)}


def _name(about: Mapping[str, Any]) -> str:
    return f"{key_of(about)}.json"


def _row(line: Mapping[str, Any]) -> Row:
    row = Row(Way.from_fields(line["way"]), int(line["batch_size"]), float(line["seconds"]), int(line["rounds"]))
    if not (row.batch_size > 0 and 0 < row.seconds < math.inf):
        raise ValueError("a time or a batch size is no number above 0")
    return row


def _pass_over(path: Path, why: str) -> None:
    warnings.warn(
        EngineWarning(f"{shown(path)}: what was measured {why}; it is passed over, and vit-hybrid tune measures anew"),
        stacklevel=3,
    )


def winners(rows: Sequence[Row]) -> list[Row]:
    """The fastest row of each precision and batch size, in their order."""
    found: dict[tuple[str, int], Row] = {}
    for row in rows:
        place = (row.way.precision, row.batch_size)
        if place not in found or row.seconds < found[place].seconds:
            found[place] = row
    return list(found.values())


__all__ = ["FOLDER", "Row", "Table", "is_anything_kept", "keep", "measured", "read", "shape_of", "where", "winners"]
