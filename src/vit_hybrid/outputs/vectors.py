"""How vectors of pictures stand in parquet: the columns, and what a file says of the model that made them.

Whoever writes vectors takes `schema` and `column`; whoever reads them takes `parts` and `Part`. pyarrow is loaded when
a function needs it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from ..errors import escaped, needs, one_line, shown
from ..files import unfetched
from ..images.preprocessing import Preprocessing

if TYPE_CHECKING:
    import pyarrow as pa

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Dtype: TypeAlias = Literal["float32", "float16"]
Normalization: TypeAlias = Literal["none", "l2"]

PATH = "path"
EMBEDDING = "embedding"
# A row of a tar shard is called by its key.
NAMES = (PATH, "key")

DTYPES: tuple[str, ...] = get_args(Dtype)
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)
# What the classifier takes: the class token after the last norm, through the representation layer where there is one.
CLASSIFIER_INPUT = "classifier_input"

# Each field of `Making` is a key of the file's metadata, with this before it: vit_hybrid.weights_sha256 and so on.
KEY_PREFIX = "vit_hybrid."
# Files that end so are rows; what begins so is not, for pyarrow and Spark neither.
PART_SUFFIX = ".parquet"
HIDDEN = ("_", ".")

ROWS_A_BATCH = 16_384
# Of a checksum, in messages.
DIGITS_SHOWN = 12


class VectorsError(ValueError):
    """Vectors that are not there or not what was asked for; the message is one line that says what is expected."""


@dataclass(frozen=True)
class Making:
    """What the vectors of a file were made with; all files of an index say the same.

    Attributes:
        model: The model as it was named to the command, which may be a path.
        weights_sha256: The checksum of its weights, as `Source.provenance` of `vit_hybrid.checkpoints` gives it.
        preprocessing: `fingerprint` of its preprocessing.
        dimension: Of each vector.
        dtype: "float32" or "float16".
        normalization: "none" for what the layer gave, "l2" for vectors of length 1; a vector of zeros stays as it is.
        layer: Where in the model they were taken.
    """

    model: str
    weights_sha256: str
    preprocessing: str
    dimension: int
    dtype: Dtype = "float32"
    normalization: Normalization = "none"
    layer: str = CLASSIFIER_INPUT

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None, where: object) -> Making:
        """What `where`, a file with this metadata, was made with.

        Raises:
            VectorsError: The metadata do not say it.
        """
        said = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in (metadata or {}).items()}
        keys = {field.name: KEY_PREFIX + field.name for field in fields(cls)}
        missing = [key for key in keys.values() if key not in said]
        if missing:
            raise VectorsError(
                f"{shown(where)}: its metadata do not say what model its vectors are of ({', '.join(missing[:3])} "
                f"missing{', ...' if len(missing) > 3 else ''}); expected what vit-hybrid embed or predict "
                "--embeddings wrote, as it was written."
            )
        given: dict[str, Any] = {name: said[key] for name, key in keys.items()}
        for name, allowed in (("dtype", DTYPES), ("normalization", NORMALIZATIONS)):
            if given[name] not in allowed:
                raise VectorsError(
                    f"{shown(where)}: {keys[name]} is {shown(given[name])}; expected {' or '.join(allowed)}. A later "
                    "release may have written it."
                )
        if not given["dimension"].isdecimal() or not int(given["dimension"]):
            raise VectorsError(
                f"{shown(where)}: {keys['dimension']} is {shown(given['dimension'])}; expected 1 or more."
            )
        return cls(**{**given, "dimension": int(given["dimension"])})

    def metadata(self) -> dict[bytes, bytes]:
        """The entries of a file's metadata."""
        texts = {f"{KEY_PREFIX}{name}": str(value) for name, value in asdict(self).items()}
        return {key.encode(): text.encode(errors="backslashreplace") for key, text in texts.items()}

    def difference(self, other: Making) -> str | None:
        """In words, why vectors of `other` cannot be compared with these; None where they can."""
        if self.weights_sha256 != other.weights_sha256:
            ours, theirs = (one.weights_sha256[:DIGITS_SHOWN] or "unknown" for one in (self, other))
            return f"model {shown(self.model)} (weights {ours}) and not {shown(other.model)} (weights {theirs})"
        if self.preprocessing != other.preprocessing:
            return f"another preprocessing of pictures than {shown(other.model)} has"
        for name in ("layer", "dimension"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} {shown(getattr(self, name))} and not {shown(getattr(other, name))}"
        return None


def fingerprint(preprocessing: Preprocessing) -> str:
    """SHA-256 of what a preprocessing does; what a step would take that is left out does not count."""
    said = asdict(preprocessing)
    for step, names in (
        ("do_resize", ("size", "resample")),
        ("do_center_crop", ("crop_size",)),
        ("do_rescale", ("rescale_factor",)),
        ("do_normalize", ("image_mean", "image_std")),
    ):
        if not said[step]:
            for name in names:
                del said[name]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def normalized(vectors: Array) -> Array:
    """Vectors (N, D) scaled to length 1, float32; those of zeros stay zeros, and what is not finite is NaN."""
    rows = np.asarray(vectors, np.float32)
    # Doubles: the square of a large float32 is infinite, that of a small one zero.
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    lengths[lengths == 0] = 1.0
    with np.errstate(invalid="ignore"):  # what is not finite becomes NaN
        return (rows / lengths[:, None]).astype(np.float32)


def stored(vectors: Array, made: Making) -> Array:
    """Vectors (N, D) as a file has them: normalized and in the dtype that `made` says."""
    values = normalized(vectors) if made.normalization == "l2" else np.asarray(vectors, np.float32)
    with np.errstate(over="ignore"):
        return values.astype(made.dtype, copy=False)


def embedding_field(made: Making) -> pa.Field:
    """The column of vectors: lists of one fixed size, null for a picture that could not be read."""
    pa = _pyarrow()
    return pa.field(EMBEDDING, pa.list_(pa.from_numpy_dtype(made.dtype), made.dimension))


def schema(made: Making, before: Sequence[pa.Field] = (), after: Sequence[pa.Field] = ()) -> pa.Schema:
    """Of a file with vectors, with what they were made with in its metadata.

    Args:
        made: What the vectors are made with.
        before: Columns between the path and the vector.
        after: Columns behind the vector.
    """
    pa = _pyarrow()
    columns = [pa.field(PATH, pa.string()), *before, embedding_field(made), *after]
    return pa.schema(columns, metadata=made.metadata())


def column(vectors: Sequence[Array | None], made: Making) -> pa.FixedSizeListArray:
    """Vectors (D,) as the column of a file, normalized and in the dtype that `made` says; None becomes null.

    Raises:
        VectorsError: A vector is of another dimension, or has values that its dtype cannot hold.
    """
    pa = _pyarrow()
    absent = np.array([vector is None for vector in vectors], bool)
    values = np.zeros((len(vectors), made.dimension), np.float32)
    for row, vector in enumerate(vectors):
        if vector is not None:
            if np.shape(vector) != (made.dimension,):
                raise VectorsError(f"a vector has shape {np.shape(vector)}; expected ({made.dimension},).")
            values[row] = vector
    held = stored(values, made)
    if not np.isfinite(held).all():
        raise VectorsError(f"a vector has values that {made.dtype} cannot hold; take float32, or look for NaN.")
    flat = pa.array(held.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, made.dimension, mask=pa.array(absent))


def parts(index: str | os.PathLike[str]) -> list[Path]:
    """The files with the rows of an index, in their order: a folder's parquet files, or the one file that it is.

    Raises:
        VectorsError: There are none.
    """
    place = Path(index).expanduser()
    expected = "expected the folder of parquet files that vit-hybrid embed wrote, or one such file"
    if place.is_dir():
        found = sorted(
            path
            for path in place.iterdir()
            if path.suffix == PART_SUFFIX and not path.name.startswith(HIDDEN) and path.is_file()
        )
        if not found:
            raise VectorsError(f"{shown(index)}: there is no parquet file in this folder; {expected}.")
        return found
    if not place.exists():
        raise VectorsError(f"{shown(index)}: there is no such folder or file; {expected}.")
    if not place.is_file():
        raise VectorsError(f"{shown(index)}: this is a pipe, socket or device; {expected}.")
    if place.suffix != PART_SUFFIX:
        raise VectorsError(f"{shown(index)}: this is no parquet file; {expected}.")
    return [place]


class Part:
    """One parquet file with vectors; only its footer has been read.

    Args:
        path: The file.

    Attributes:
        path: As given.
        made: What its vectors were made with.
        rows: How many it has, those without a vector included.
        name_column: What the column is called that names the pictures.

    Raises:
        VectorsError: It is damaged, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        pa = _pyarrow()
        self.path = path
        names = self._file.schema_arrow.names
        self.made = Making.from_metadata(self._file.schema_arrow.metadata, path)
        self.rows: int = self._file.metadata.num_rows
        for wanted in (NAMES, (EMBEDDING,)):
            if not {*wanted} & {*names}:
                raise VectorsError(f"{shown(path)}: there is no column {' or '.join(wanted)}; it has {shown(names)}.")
        self.name_column: str = next(name for name in NAMES if name in names)
        found, expected = self._file.schema_arrow.field(EMBEDDING).type, embedding_field(self.made).type
        if not pa.types.is_fixed_size_list(found) or (found.list_size, found.value_type) != (
            expected.list_size,
            expected.value_type,
        ):
            raise VectorsError(f"{shown(path)}: the column {EMBEDDING} is {shown(found)}, its metadata say {expected}.")

    @cached_property
    def _file(self) -> Any:
        with _told_as_damage(self.path):
            import pyarrow.parquet as pq

            # pyarrow takes names in UTF-8 alone, and reads what Python has opened.
            name = str(self.path)
            return pq.ParquetFile(name if escaped(name) == name else open(name, "rb"))  # `close` closes it

    def names(self, rows: Sequence[int]) -> list[str]:
        """What the pictures of some rows are called.

        Raises:
            VectorsError: The file is damaged, or has fewer rows now.
        """
        wanted = np.unique(np.asarray(rows, np.int64))
        found: dict[int, str] = {}
        start = 0
        for group in range(self._file.metadata.num_row_groups):
            stop = start + self._file.metadata.row_group(group).num_rows
            inside = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, stop)].tolist()
            if inside:
                with _told_as_damage(self.path):
                    column = self._file.read_row_group(group, columns=[self.name_column]).column(0)
                    found |= {row: str(column[row - start].as_py() or "") for row in inside}
            start = stop
        if len(found) < len(wanted):
            raise VectorsError(f"{shown(self.path)}: it has {start:,} rows, fewer than a moment ago; try again.")
        return [found[row] for row in rows]

    def rows_called(self, name: str) -> list[int]:
        """The rows whose picture is called so.

        Raises:
            VectorsError: The file is damaged.
        """
        with _told_as_damage(self.path):
            import pyarrow.compute as pc

            column = self._file.read(columns=[self.name_column]).column(0)
            return pc.indices_nonzero(pc.equal(column, name)).to_pylist()

    def batches(self, rows: int = ROWS_A_BATCH) -> Iterator[tuple[list[str], Array, Array]]:
        """Names (N), vectors (N, D) in the file's dtype and whether each is there (N,), so many rows at once.

        The vector of a row that has none is zero.

        Raises:
            VectorsError: The file is damaged.
        """
        batches = self._file.iter_batches(rows, columns=[self.name_column, EMBEDDING])
        while True:
            with _told_as_damage(self.path):
                batch = next(batches, None)
                if batch is None:
                    return
                embedding = batch.column(EMBEDDING)
                there = embedding.is_valid().to_numpy(zero_copy_only=False)
                values = np.zeros((len(batch), self.made.dimension), self.made.dtype)
                # What is flattened is without the rows that are null.
                flat = embedding.flatten().to_numpy(zero_copy_only=False)
                values[there] = flat.reshape(-1, self.made.dimension)
                names = ["" if name is None else str(name) for name in batch.column(self.name_column).to_pylist()]
            yield names, values, there

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close(force=True)


@contextmanager
def _told_as_damage(path: Path) -> Iterator[None]:
    """Says in one line that a file is damaged, in whatever words pyarrow says it."""
    pa = _pyarrow()
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = unfetched(path) or f"not a parquet file, or damaged ({one_line(error)})"
        raise VectorsError(f"{shown(path)}: {why}.") from error


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise VectorsError(needs("reading and writing vectors", ["pyarrow"], "search")) from error
    return pyarrow


__all__ = [
    *("CLASSIFIER_INPUT", "DTYPES", "EMBEDDING", "NAMES", "NORMALIZATIONS", "PATH", "Making", "Part", "VectorsError"),
    *("column", "embedding_field", "fingerprint", "normalized", "parts", "schema", "stored"),
]
