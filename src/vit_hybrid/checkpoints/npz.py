"""NumPy's `.npz` archives, an array at a time, so that a large one never lies in memory as a whole. Nothing is
unpickled."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ..errors import one_line
from ..files import unfetched
from .matching import CheckpointError

MEMBER_SUFFIX = ".npy"
ZIP_MAGIC = b"PK"

# What NumPy reads a bfloat16 array as: it has no such type, and the file says only that a number takes two bytes.
BFLOAT16_AS_READ = np.dtype("V2")
# bfloat16 is the upper half of a float32.
BFLOAT16_SHIFT = 16

# What zipfile, zlib and NumPy raise for bytes that are not what they should be.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError)


class Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class NpzReader:
    """The arrays of an archive; made by `opened`.

    Attributes:
        path: The archive.
        headers: Shape and type of each array, by its name.
    """

    def __init__(self, path: str | os.PathLike, archive: zipfile.ZipFile) -> None:
        self.path = os.fspath(path)
        self._archive = archive
        self.headers: Mapping[str, Header] = {
            name.removesuffix(MEMBER_SUFFIX): self._header(name) for name in archive.namelist()
        }

    def read(self, name: str) -> np.ndarray:
        """An array of floating-point numbers; bfloat16 comes as float32.

        Raises:
            CheckpointError: If it is damaged or holds something else.
        """
        self._require_numbers(name)
        with self._opened(name + MEMBER_SUFFIX) as member:
            array: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
            member.read()  # to the end, where the checksum is compared
        if array.dtype == BFLOAT16_AS_READ:
            return (array.view(np.uint16).astype(np.uint32) << BFLOAT16_SHIFT).view(np.float32)
        return array

    def _require_numbers(self, name: str) -> None:
        dtype = self.headers[name].dtype
        if dtype.kind == "O":
            raise CheckpointError(self.path, f"{name} holds pickled Python objects, which are never loaded")
        if dtype.kind != "f" and dtype != BFLOAT16_AS_READ:
            raise CheckpointError(self.path, f"{name} holds {dtype}, not floating-point numbers")

    def _header(self, member_name: str) -> Header:
        if not member_name.endswith(MEMBER_SUFFIX):
            raise CheckpointError(self.path, f"this is no .npz file of arrays: it holds {member_name}, which is none")
        with self._opened(member_name) as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(member)
        return Header(shape, dtype)

    @contextmanager
    def _opened(self, member_name: str) -> Iterator[Any]:
        try:
            with self._archive.open(member_name) as member:
                yield member
        except DAMAGE as error:
            name = member_name.removesuffix(MEMBER_SUFFIX)
            raise CheckpointError(self.path, f"the file is damaged at {name} ({one_line(error)})") from error


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[NpzReader]:
    """The archive at `path`, for reading.

    Raises:
        CheckpointError: If it is no `.npz` archive, or a truncated or damaged one.
        OSError: If it is not there or cannot be read.
    """
    with open(path, "rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except DAMAGE as error:
            raise CheckpointError(path, _not_an_archive(path)) from error
        with archive:
            yield NpzReader(path, archive)


def _not_an_archive(path: str | os.PathLike) -> str:
    if (reason := unfetched(path)) is not None:
        return f"this {reason}"
    with open(path, "rb") as file:
        start = file.read(len(ZIP_MAGIC))
    if not start:
        return "the file is empty"
    if start == ZIP_MAGIC:
        return "the file is truncated: the archive's table of contents, which ends it, is not there; get it anew"
    return "this is no .npz file (an archive of NumPy arrays)"


def write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """Adds an array to an archive that is being written, as `numpy.savez` does."""
    with archive.open(name + MEMBER_SUFFIX, "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


__all__ = ["Header", "NpzReader", "opened", "write_array"]
