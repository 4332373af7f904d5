"""How stores are asked: which packages that needs, how often, and what they tell of a file."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vit_hybrid.data.sources import SourceError
from vit_hybrid.data.streams import open_stream, stores

fsspec = pytest.importorskip("fsspec")


@pytest.mark.parametrize(
    ("address", "kind", "packages"),
    [
        ("simplecache::gcs://x/y.jpg", "gcs", "fsspec[gcs]"),
        ("made-up://x/y.jpg", "made-up", "vit-hybrid[predict]"),
        *(
            (f"{kind}://x/y.jpg", kind, f"fsspec[{extra}]")
            for extra, kinds in (
                *(("s3", ("s3", "s3a")), ("gcs", ("gs",)), ("http", ("http", "https")), ("smb", ("smb",))),
                *(("abfs", ("abfs", "abfss", "az")), ("sftp", ("sftp", "ssh"))),
            )
            for kind in kinds
        ),
    ],
)
def test_a_missing_package_is_named_with_what_brings_it(
    address: str, kind: str, packages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_package(address: str) -> None:
        raise ImportError("Install it first")

    monkeypatch.setattr(fsspec.core, "url_to_fs", without_package)
    with pytest.raises(SourceError) as caught:
        open_stream([address])
    assert str(caught.value) == (
        f"{address}: reading {kind}:// needs a package that is not installed here (Install it first); pip install "
        f"'{packages}'"
    )


@pytest.mark.parametrize(
    ("address", "error", "tries"),
    [
        ("http://made.up/2.jpg", RuntimeError("broken"), 3),
        ("https://made.up/2.jpg", RuntimeError("broken"), 3),
        ("http://made.up/2.jpg", PermissionError(13, "forbidden"), 1),
        ("http://made.up/2.jpg", FileNotFoundError(2, "gone"), 1),
        ("http://made.up/2.jpg", NotADirectoryError(20, "not a folder"), 1),
        ("http://made.up/2.jpg", IsADirectoryError(21, "a folder"), 1),
        ("memory://made.up/2.jpg", RuntimeError("broken"), 1),
    ],
)
def test_what_is_asked_again(address: str, error: Exception, tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "FIRST_PAUSE", 0)
    asked: list[str] = []

    def failing(path: str) -> None:
        asked.append(path)
        raise error

    expected = stores.Unreachable if isinstance(error, RuntimeError) else type(error)
    with pytest.raises(expected):
        stores.asked(address, failing, "2.jpg")
    assert asked == ["2.jpg"] * tries


@pytest.mark.parametrize("tag", ["ETag", "etag", "md5Hash"])
def test_what_a_store_tells_of_a_files_content_counts_and_not_its_time(tag: str) -> None:
    def stamp(**info: object) -> tuple[int, int]:
        return stores._stamp_in({"size": 9, **info})

    assert stamp(**{tag: "a"}, mtime=1) == stamp(**{tag: "a"}, mtime=2) != stamp(**{tag: "b"}, mtime=1)
    assert stamp(mtime=1) == (9, 10**9)
    assert stamp(updated="1970-01-01T00:00:03Z") == (9, 3 * 10**9)
    assert stamp(created=datetime.fromtimestamp(4, UTC), mtime=0) == (9, 4 * 10**9)
    assert stamp(last_modified=datetime.fromtimestamp(5.5, UTC)) == (9, 5_500_000_000)
    assert stamp() == (9, 0)
    assert stores._stamp_in({"size": None, "mtime": 1}) == (0, 10**9)
    assert stamp(LastModified="1970-01-01T00:00:02+00:00") == (9, 2 * 10**9)
