"""Which pictures are among others by what is in their files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from labeled_files import class_folders, encoded, parquet, structs

from vit_hybrid.data import read_labeled
from vit_hybrid.data.checksums import are_among, checksums


def test_the_same_files_are_found_under_other_names_and_what_is_gone_is_like_nothing(tmp_path: Path) -> None:
    mine = read_labeled(class_folders(tmp_path / "a", cat=3))
    others = read_labeled(class_folders(tmp_path / "b", dog=3))
    for place, content in (("a/cat", (b"1", b"2", b"3")), ("b/dog", (b"2", b"9", b"0"))):
        for path, one in zip(sorted((tmp_path / place).iterdir()), content, strict=True):
            path.write_bytes(one)
    first, *_, last = sorted((tmp_path / "a" / "cat").iterdir())
    last.unlink()
    sorted((tmp_path / "b" / "dog").iterdir())[2].unlink()
    assert are_among(checksums(mine), checksums(others)).tolist() == [False, True, False]
    first.write_bytes(b"9")
    assert are_among(checksums(mine), checksums(others)).tolist() == [True, True, False]
    for path in (first, sorted((tmp_path / "b" / "dog").iterdir())[0]):
        path.write_bytes(b"19")  # whose checksum, 9400f1b21cb5, has a byte that is zero
    assert are_among(checksums(mine), checksums(others)).tolist() == [True, False, False]
    sorted((tmp_path / "b" / "dog").iterdir())[0].write_bytes(b"2")
    first.unlink()  # which keeps none behind it from being read
    assert are_among(checksums(mine), checksums(others)).tolist() == [False, True, False]


def test_bytes_in_a_table_are_those_of_files(tmp_path: Path) -> None:
    files = read_labeled(class_folders(tmp_path / "files", cat=3))
    table = read_labeled(parquet(tmp_path / "a.parquet", {"image": structs(2, 1), "label": [0, 1]}))
    assert are_among(checksums(files), checksums(table)).tolist() == [False, True, True]
    assert [bytes(row).hex() for row in checksums(table)] == [
        hashlib.sha256(encoded(level)).hexdigest()[:12] for level in (1, 2)
    ]
