"""Sources behind addresses: in memory, at a web server, and in S3 as moto plays it."""

from __future__ import annotations

import functools
import http.server
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stream_checks import check_entry_anywhere, content_of, names_in, planned, reopened

from vit_hybrid.data import listing
from vit_hybrid.data.columns import ColumnChoice
from vit_hybrid.data.sources import SourceError
from vit_hybrid.data.streams import open_stream, stores, walking
from vit_hybrid.files import MARK

fsspec = pytest.importorskip("fsspec")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def tar_of(*names: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    return content.getvalue()


def parquet_of(*contents: bytes) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table({"image": list(contents)}), content, row_group_size=2)
    return content.getvalue()


FILES = {
    "photos/2.jpg": b"two",
    "photos/10.jpg": b"ten",
    "photos/in/1.png": b"one",
    "photos/in/notes.txt": b"notes",
    "photos/.hidden.jpg": b"hidden",
    "photos/__MACOSX/x.jpg": b"system's",
    "lists/x.csv": b"label,path\na,../photos/2.jpg\nb,../photos/gone.jpg\n",
    "lists/x.txt": b"../photos/2.jpg\n../photos/in/1.png\n",
    "tars/0.tar": tar_of("a.jpg", "a.json", "b.jpg"),
    "tars/1.tar": tar_of("c.jpg"),
    "parquet/0.parquet": parquet_of(b"p", b"q", b"r"),
}
PHOTOS = ["photos/10.jpg", "photos/2.jpg", "photos/in/1.png"]

Put = Callable[[str, bytes], None]


@pytest.fixture
def in_memory() -> Iterator[tuple[str, Put]]:
    files = fsspec.filesystem("memory")
    base = f"/{os.urandom(8).hex()}"

    def put(name: str, content: bytes) -> None:
        files.pipe_file(f"{base}/{name}", content)

    for name, content in FILES.items():
        put(name, content)
    yield f"memory:/{base}", put
    files.rm(base, recursive=True)


class Plain(http.server.SimpleHTTPRequestHandler):
    """A server that gives files as a whole alone, and says nothing."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class InParts(Plain):
    """A server that gives parts of files, too."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        if not asked or not path.is_file():
            super().do_GET()
            return
        first, _, last = asked.partition("-")
        content = path.read_bytes()
        part = content[int(first) : int(last or len(content)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


class WithoutSizes(Plain):
    """A server that gives files as a whole alone and does not say how large they are, nor when they were written."""

    def send_header(self, keyword: str, value: str) -> None:
        if keyword not in ("Content-Length", "Last-Modified"):
            super().send_header(keyword, value)


@contextmanager
def served(folder: Path, handler: type[http.server.SimpleHTTPRequestHandler]) -> Iterator[tuple[str, Put]]:
    """The address of a server, and what puts a file there."""
    pytest.importorskip("aiohttp")

    def put(name: str, content: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    for name, content in FILES.items():
        put(name, content)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", put
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def at_a_server(tmp_path: Path) -> Iterator[tuple[str, Put]]:
    with served(tmp_path, InParts) as found:
        yield found


@pytest.fixture
def at_a_plain_server(tmp_path: Path) -> Iterator[tuple[str, Put]]:
    with served(tmp_path, Plain) as found:
        yield found


@pytest.fixture
def at_a_server_without_sizes(tmp_path: Path) -> Iterator[tuple[str, Put]]:
    with served(tmp_path, WithoutSizes) as found:
        yield found


@pytest.fixture
def in_s3(bucket: str) -> tuple[str, Put]:
    files = fsspec.filesystem("s3")

    def put(name: str, content: bytes) -> None:
        files.pipe_file(f"{bucket}/{name}", content)

    for name, content in FILES.items():
        put(name, content)
    return bucket, put


@pytest.fixture(params=["in_memory", "in_s3"])
def store(request: pytest.FixtureRequest) -> tuple[str, Put]:
    """A place where folders can be listed, and what puts a file there."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["in_memory", "at_a_server", "at_a_plain_server", "at_a_server_without_sizes", "in_s3"])
def place(request: pytest.FixtureRequest) -> tuple[str, Put]:
    """Any place."""
    return request.getfixturevalue(request.param)


def test_folders(store: tuple[str, Put]) -> None:
    base, _ = store
    stream = open_stream([f"{base}/photos"])
    assert names_in(stream) == [f"{base}/{name}" for name in PHOTOS]
    assert [content_of(entry) for entry in stream.entries()] == [FILES[name] for name in PHOTOS]
    assert [entry.stamp[0] for entry in stream.entries() if entry.stamp] == [3, 3, 3]
    assert stream.passed.counts() == {listing.SYSTEM: 1, listing.HIDDEN: 1, listing.OTHER: 1}
    assert names_in(open_stream([f"{base}/photos/"])) == [f"{base}/{name}" for name in PHOTOS]
    check_entry_anywhere([f"{base}/photos/"])


def test_heic_is_counted_where_nothing_reads_it(in_memory: tuple[str, Put], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_reads_heic", lambda: False)
    base, put = in_memory
    put("photos/in/2.heic", b"two")
    put("photos/in/3.HEIF", b"three")
    stream = open_stream([f"{base}/photos/in"])
    assert names_in(stream) == [f"{base}/photos/in/1.png"]
    assert stream.passed.counts() == {listing.HEIC: 2, listing.OTHER: 1}


def test_globs(store: tuple[str, Put]) -> None:
    base, _ = store
    assert names_in(open_stream([f"{base}/photos/*.jpg"])) == [f"{base}/{name}" for name in PHOTOS[:2]]
    assert names_in(open_stream([f"{base}/**/1.png"])) == [f"{base}/photos/in/1.png"]
    assert names_in(open_stream([f"{base}/t*/*.tar"])) == ["a", "b", "c"]
    check_entry_anywhere([f"{base}/*/*.jpg", f"{base}/tars/*"])


def test_a_folder_that_this_package_wrote_is_passed_over_unless_it_is_named(store: tuple[str, Put]) -> None:
    base, put = store
    put(f"photos/in/{MARK}", b"")
    stream = open_stream([f"{base}/photos"])
    assert len(names_in(stream)) == 2
    assert stream.passed.counts()[listing.OURS] == 1
    assert names_in(open_stream([f"{base}/photos/in"])) == [f"{base}/photos/in/1.png"]


def test_outlines(store: tuple[str, Put]) -> None:
    base, put = store
    stream, ranges = planned([f"{base}/photos", f"{base}/tars/*.tar"], 4)
    assert reopened(stream).change() == ("same", "")
    put("photos/3.jpg", b"three")
    put("photos/aa/4.jpg", b"four")
    later = reopened(stream)
    assert later.change().kind == "grew"
    new = [entry.path for found in later.ranges(4, ranges[-1].last) for entry in later.read(found.first, found.rows)]
    assert new == [f"{base}/photos/3.jpg", f"{base}/photos/aa/4.jpg"]
    fsspec.core.url_to_fs(base)[0].rm(f"{base}/photos/in/1.png")
    kind, difference = reopened(later).change()
    assert kind == "vanished"
    assert f"{base}/photos/in" in difference
    put("photos/in/1.png", b"one")
    put("tars/0.tar", tar_of("z.jpg"))
    assert reopened(later).change() == ("changed", f"{base}/tars/0.tar: it was written to since")


def test_a_servers_folder(at_a_server: tuple[str, Put]) -> None:
    base, put = at_a_server
    names = [f"{base}/photos/"]
    assert names_in(open_stream(names)) == [f"{base}/{name}" for name in PHOTOS]
    check_entry_anywhere(names)
    stream, _ = planned(names, 2)
    put("photos/3.jpg", b"three")
    assert reopened(stream).change().kind == "grew" or "renamed, replaced" in reopened(stream).change().difference


def test_what_a_page_links_to_is_in_the_folder_where_it_lies_there() -> None:
    folder = "http://made.up/photos/"
    for path, is_inside in (("1.jpg", True), ("in/", True), ("in/1.jpg", False), ("?C=N;O=D", False)):
        assert stores._is_inside(f"{folder}{path}", folder) == is_inside
    assert not stores._is_inside("http://made.up/", folder)


def test_lists(place: tuple[str, Put]) -> None:
    base, _ = place
    entries = list(open_stream([f"{base}/lists/x.txt"]).entries())
    assert [content_of(entry) for entry in entries] == [b"two", b"one"]
    entries = list(open_stream([f"{base}/lists/x.csv"]).entries())
    assert content_of(entries[0]) == b"two"
    assert entries[1].path == f"{base}/photos/gone.jpg"
    assert "no such file" in str(content_of(entries[1]))
    assert entries[1].stamp is None
    check_entry_anywhere([f"{base}/lists/x.txt", f"{base}/lists/x.csv"])


def test_a_list_on_the_disk_may_name_addresses(tmp_path: Path, place: tuple[str, Put]) -> None:
    base, _ = place
    (tmp_path / "x.txt").write_text(f"{base}/photos/2.jpg\n")
    [entry] = open_stream([str(tmp_path / "x.txt")]).entries()
    assert content_of(entry) == b"two"


def test_tars(place: tuple[str, Put]) -> None:
    base, _ = place
    names = [f"{base}/tars/{{0..1}}.tar"]
    entries = list(open_stream(names).entries())
    assert [(entry.path, entry.content) for entry in entries] == [("a", b"a.jpg"), ("b", b"b.jpg"), ("c", b"c.jpg")]
    check_entry_anywhere(names)
    assert reopened(planned(names, 2)[0]).change().kind == "same"


def test_a_tar_that_is_missing_among_others_is_one_error(place: tuple[str, Put]) -> None:
    base, _ = place
    entries = list(open_stream([f"{base}/tars/{{0..2}}.tar"]).entries())
    assert [entry.path for entry in entries] == ["a", "b", "c", f"{base}/tars/2.tar"]
    assert str(entries[3].content) == f"{base}/tars/2.tar: no such file"
    assert reopened(planned([f"{base}/tars/{{0..2}}.tar"], 3)[0]).change().kind == "same"
    check_entry_anywhere([f"{base}/tars/{{0..2}}.tar"])
    with pytest.raises(SourceError, match=r"tars/2\.tar: no such file or folder"):  # the first is asked for
        open_stream([f"{base}/tars/{{2,1}}.tar"])


def test_parquet_files(place: tuple[str, Put]) -> None:
    base, _ = place
    names = [f"{base}/parquet/0.parquet"]
    entries = list(open_stream(names).entries())
    assert [entry.content for entry in entries] == [b"p", b"q", b"r"]
    assert entries[2].path == f"{base}/parquet/0.parquet#2"
    check_entry_anywhere(names)
    assert reopened(planned(names, 2)[0]).change().kind == "same"


def test_pictures(place: tuple[str, Put]) -> None:
    base, _ = place
    check_entry_anywhere([f"{base}/photos/2.jpg", f"{base}/photos/10.jpg"])
    [entry] = open_stream([f"{base}/photos/2.jpg"], None, ColumnChoice()).entries()
    assert content_of(entry) == b"two"
    assert (entry.label, entry.teller) == ("photos", walking.FOLDERS)


def test_what_is_not_fetched_at_once_of_a_server_without_parts(
    at_a_plain_server: tuple[str, Put], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "FETCHED_AT_ONCE", 8)
    monkeypatch.setattr(stores, "BUFFER_BYTES", 8)
    base, put = at_a_plain_server
    put("lists/z.txt", "../photos/2.jpg\n".encode("utf-16"))  # which is told by its first bytes
    assert names_in(open_stream([f"{base}/lists/z.txt"])) == [f"{base}/photos/2.jpg"]
    entries = list(open_stream([f"{base}/parquet/0.parquet", f"{base}/tars/0.tar"]).entries())
    assert [entry.content for entry in entries] == [b"p", b"q", b"r", b"a.jpg", b"b.jpg"]


def test_an_empty_file_at_a_server_has_no_pictures(at_a_server: tuple[str, Put]) -> None:
    base, put = at_a_server
    for name, message in (("x.txt", "no pictures in it"), ("x.tar", "it is empty"), ("x.parquet", "not a parquet")):
        put(f"empty/{name}", b"")
        with pytest.raises(SourceError, match=rf"empty/{name}: {message}"):
            open_stream([f"{base}/empty/{name}"])


@pytest.mark.parametrize(("name", "gone"), [("parquet/{0,1}.parquet", "1.parquet"), ("lists/{x,y}.txt", "y.txt")])
def test_a_file_that_is_missing_among_others_is_one_error(in_memory: tuple[str, Put], name: str, gone: str) -> None:
    base, _ = in_memory
    *entries, missing = open_stream([f"{base}/{name}"]).entries()
    assert len(entries) > 1
    assert not any(isinstance(entry.content, SourceError) for entry in entries)
    assert str(missing.content) == f"{base}/{name.partition('/')[0]}/{gone}: no such file"


def test_what_is_not_there_is_refused(place: tuple[str, Put]) -> None:
    base, _ = place
    for name in ("nothing.jpg", "none/*.jpg"):
        with pytest.raises(SourceError, match=r"no such|cannot read"):
            open_stream([f"{base}/{name}"])


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SourceError, match=r"^unheard://x/y\.jpg: Protocol not known: unheard$"):
        open_stream(["unheard://x/y.jpg"])


@pytest.mark.parametrize("name", ["tars/0.tar", "lists/x.txt", "parquet/0.parquet"])
def test_a_store_that_does_not_answer_is_an_error_and_no_row(
    in_memory: tuple[str, Put], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    base, _ = in_memory
    stream = open_stream([f"{base}/{name}"])
    place = next(stream.entries()).place
    files = fsspec.filesystem("memory")

    def failing(*arguments: Any, **options: Any) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(type(files), "open", failing)
    with pytest.raises(SourceError, match=f"{name}: cannot be fetched: timed out"):
        list(stream.read(place, 1))


def test_a_store_that_answers_no_more_damages_no_labels(
    in_memory: tuple[str, Put], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, put = in_memory
    content = io.BytesIO()
    pq.write_table(pa.table({"image": [b"p", b"q"], "label": ["a", "b"]}), content)
    put("labels.parquet", content.getvalue())
    stream: Any = open_stream([f"{base}/labels.parquet"], None, ColumnChoice())
    [(_, labels)] = stream.labeled_ranges(iter([9]))
    assert [one.label for one in labels] == ["a", "b"]
    kind = type(fsspec.filesystem("memory"))
    opened: list[str] = []
    whole = kind.open

    def failing(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        opened.append(path)
        if len(opened) > 1:  # when it has said what its columns are
            raise TimeoutError("timed out")
        return whole(self, path, *arguments, **options)

    monkeypatch.setattr(kind, "open", failing)
    with pytest.raises(SourceError, match=r"/labels\.parquet: cannot be fetched: timed out$"):
        list(stream.labeled_ranges(iter([9])))


def test_a_folder_about_which_a_store_does_not_answer_is_an_error_and_no_row(
    in_memory: tuple[str, Put], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _ = in_memory
    kind = type(fsspec.filesystem("memory"))
    listed = kind.ls

    def failing(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("/in"):
            raise TimeoutError("timed out")
        return listed(self, path, *arguments, **options)

    monkeypatch.setattr(kind, "ls", failing)
    with pytest.raises(SourceError, match="photos/in: cannot be fetched: timed out"):
        names_in(open_stream([f"{base}/photos"]))


def test_what_was_listed_before_is_listed_anew(in_s3: tuple[str, Put]) -> None:
    base, _ = in_s3
    fsspec.filesystem("s3").ls(f"{base}/photos/in")  # which keeps it
    fsspec.filesystem("s3", skip_instance_cache=True).pipe_file(f"{base}/photos/in/2.png", b"another's")
    assert names_in(open_stream([f"{base}/photos/in"])) == [f"{base}/photos/in/{number}.png" for number in (1, 2)]


def test_a_server_that_is_gone_is_not_taken_for_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "FIRST_PAUSE", 0)
    with served(tmp_path, InParts) as (base, _):
        stream = open_stream([f"{base}/tars/0.tar"])
        place = next(stream.entries()).place
    for use in (lambda: open_stream([f"{base}/tars/0.tar"]), lambda: list(stream.read(place, 1))):
        with pytest.raises(SourceError, match=r"tars/0\.tar: cannot be fetched: "):
            use()


class Breaking(io.BytesIO):
    """A file whose connection breaks so often before it gives something."""

    left = 0
    size = 8

    def read(self, size: int | None = -1) -> bytes:
        type(self).left -= 1
        if type(self).left >= 0:
            raise RuntimeError("Response payload is not completed")
        return super().read(size)

    def cat_file(self, path: str) -> bytes:
        return self.read()

    def open(self, path: str, mode: str, **options: Any) -> io.BytesIO:
        return self


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> type[Breaking]:
    monkeypatch.setattr(stores, "FIRST_PAUSE", 0)
    monkeypatch.setattr(stores, "filesystem", lambda path: (Breaking(b"12345678"), path))
    return Breaking


def test_a_connection_that_breaks_is_tried_again(breaking: type[Breaking]) -> None:
    fetch = stores.Fetch("http://made.up/2.jpg")
    breaking.left = 2
    assert fetch() == b"12345678"
    breaking.left = 3
    with pytest.raises(SourceError, match=r"http://made\.up/2\.jpg: cannot be fetched: Response payload is not"):
        fetch()


def test_each_wait_for_a_connection_is_twice_the_one_before(
    breaking: type[Breaking], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(stores, "FIRST_PAUSE", 0.5)
    monkeypatch.setattr(stores.time, "sleep", waited.append)
    breaking.left = 2
    assert stores.Fetch("http://made.up/2.jpg")() == b"12345678"
    assert waited == [0.5, 1.0]


def test_a_connection_that_breaks_in_a_file_is_tried_again(breaking: type[Breaking]) -> None:
    with stores.REMOTE.open("http://made.up/2.tar") as file:
        breaking.left = 2
        file.seek(3)
        assert file.read(2) == b"45"
        assert file.tell() == 5
        file.seek(0)
        breaking.left = 3
        with pytest.raises(OSError, match=r"http://made\.up/2\.tar: cannot be fetched: Response payload is not"):
            file.read()
