from __future__ import annotations

import io
import logging
import os
import pickle
import re
import struct
import sys
import threading
import zlib
from pathlib import Path

import legacy_pictures
import numpy as np
import pytest
from PIL import Image

from vit_hybrid.errors import LFS_POINTER, UNFETCHED, options_named
from vit_hybrid.images import reading
from vit_hybrid.images.levels import to_8_bit, to_rgb
from vit_hybrid.images.reading import ImageReadError, eight_bit_levels, open_image, upright
from vit_hybrid.images.reading import encoded as encoded_bytes

RGB = legacy_pictures.levels(17, 23)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_sources_of_a_picture(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(RGB))
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with path.open("rb") as file:
        for source in (path, str(path), content, bytearray(content), memoryview(content), io.BytesIO(content), file):
            np.testing.assert_array_equal(np.asarray(open_image(source)), RGB)


def test_pipes_are_read(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(RGB))
    for as_file in (True, False):
        read_end, writing = os.pipe()
        with os.fdopen(read_end, "rb") as pipe:
            with os.fdopen(writing, "wb") as other_end:
                other_end.write(content)
            image = open_image(pipe if as_file else f"/dev/fd/{read_end}")
        np.testing.assert_array_equal(np.asarray(image), RGB)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_has_no_end_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for path in (str(pipe), "/dev/zero"):
        with pytest.raises(ImageReadError, match="is a pipe, socket or device, not a picture") as caught:
            open_image(path)
        assert caught.value.kind == "not a picture"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_read_when_somebody_writes_to_it_later(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # or the other end could not be opened
    writing = os.open(pipe, os.O_WRONLY)

    def write() -> None:
        with os.fdopen(writing, "wb") as other_end:
            other_end.write(encoded(Image.fromarray(RGB)))

    timer = threading.Timer(0.2, write)
    timer.start()
    np.testing.assert_array_equal(np.asarray(open_image(pipe)), RGB)
    timer.join()
    os.close(reading)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_first_frame_is_decoded_completely(tmp_path: Path, kind: str) -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    path = tmp_path / "frames"
    path.write_bytes(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    image = open_image(path)
    path.unlink()
    assert image.convert("RGB").resize((5, 5)).size == (5, 5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(RGB)
    upright = {
        1: stored,
        2: stored.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: stored.transpose(Image.Transpose.ROTATE_180),
        4: stored.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: stored.transpose(Image.Transpose.TRANSPOSE),
        6: stored.transpose(Image.Transpose.ROTATE_270),
        7: stored.transpose(Image.Transpose.TRANSVERSE),
        8: stored.transpose(Image.Transpose.ROTATE_90),
    }[orientation]
    image = open_image(encoded(stored, exif=exif))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(upright))


def test_damaged_exif_data_cost_the_orientation_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(*args: object, **options: object) -> None:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(reading.ImageOps, "exif_transpose", stumble)
    caplog.set_level(logging.WARNING, "vit_hybrid")
    np.testing.assert_array_equal(np.asarray(open_image(encoded(Image.fromarray(RGB)), "photo.png")), RGB)
    assert "photo.png: damaged EXIF data, orientation ignored (not a TIFF file)" in caplog.text


def test_file_that_is_no_picture(tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("not a picture\n")
    pointer, like_one = tmp_path / "pointer.jpg", tmp_path / "like-one.jpg"
    pointer.write_bytes(LFS_POINTER + b"\noid sha256:0\n")
    like_one.write_bytes(LFS_POINTER[:20])
    empty = tmp_path / "empty.jpg"
    empty.touch()
    for path, reason, kind in (
        (tmp_path / "absent.jpg", "no such file", "missing"),
        (
            tmp_path / "a\\b.jpg",
            "no such file; the path has backslashes, as on Windows, where / is expected",
            "missing",
        ),
        (tmp_path, "is a folder, not a picture", "not a picture"),
        (empty, "is empty", "empty"),
        (text, "is not a picture in a format that Pillow reads", "not a picture"),
        (like_one, "is not a picture in a format that Pillow reads", "not a picture"),
        (pointer, UNFETCHED, "not a picture"),
        (text / "below", "cannot be opened (Not a directory)", "unreadable"),
    ):
        with pytest.raises(ImageReadError) as caught:
            open_image(path)
        assert str(caught.value) == f"{path}: {reason}"
        assert (caught.value.name, caught.value.reason, caught.value.kind) == (str(path), reason, kind)
        assert kind in reading.ERROR_KINDS
    with pytest.raises(ImageReadError, match=r"cannot be opened \(.*null"):
        open_image("\0.jpg")
    with text.open("rb") as file, pytest.raises(ImageReadError, match=f"^{text}: is not a picture"):
        open_image(file)
    assert encoded_bytes(text) == b"not a picture\n"
    assert encoded_bytes(text, most=3) == b"not"
    with pytest.raises(ImageReadError, match=f"^{tmp_path}: is a folder"):
        encoded_bytes(tmp_path)
    with pytest.raises(ImageReadError, match=r"^mine: no such file"):
        encoded_bytes(tmp_path / "absent.jpg", "mine")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(Image.fromarray(RGB)))
    path.chmod(0)
    with pytest.raises(ImageReadError, match="Permission denied"):
        open_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_files_at_any_length(kind: str) -> None:
    content = encoded(Image.fromarray(RGB), kind)
    for length in (1, 2, 9, 25, 60, len(content) // 2, len(content) * 3 // 4):
        with pytest.raises(ImageReadError, match=r"^cut: is ") as caught:
            open_image(content[:length], "cut")
        assert caught.value.kind == ("damaged" if "truncated" in caught.value.reason else "not a picture")


def test_unreadable_stream() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("connection lost")

    with pytest.raises(ImageReadError, match=r"<stream>: cannot be read \(connection lost\)") as caught:
        open_image(Broken())
    assert caught.value.kind == "unreadable"
    closed = io.BytesIO(b"")
    closed.close()
    with pytest.raises(ImageReadError, match=r"^mine: cannot be read \(I/O operation on closed file") as caught:
        open_image(closed, "mine")
    assert caught.value.kind == "unreadable"
    with pytest.raises(TypeError, match="binary mode"):
        open_image(io.StringIO("text"))
    with pytest.raises(TypeError, match="not from int"):
        open_image(3)


@pytest.mark.parametrize("limit", [RGB.shape[0] * RGB.shape[1] - 1, 100])  # Pillow warns of the one, refuses the other
def test_decompression_bombs(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageReadError, match=f"bomb.png: has more pixels than the {limit} "):
        open_image(encoded(Image.fromarray(RGB)), "bomb.png")
    assert open_image(encoded(Image.fromarray(RGB)), max_pixels=10**6).size == (23, 17)
    assert limit == Image.MAX_IMAGE_PIXELS  # the program's own, as it was


def test_error_is_one_line_and_survives_pickling() -> None:
    with pytest.raises(ImageReadError) as caught:
        open_image(b"x", "first\nsecond\t.png")
    assert str(caught.value) == "first second .png: is not a picture in a format that Pillow reads"
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, ImageReadError)
    assert (str(again), again.name, again.reason) == (str(caught.value), caught.value.name, caught.value.reason)
    assert (again.kind, caught.value.kind, ImageReadError("a", "b").kind) == (
        "not a picture",
        "not a picture",
        "damaged",
    )


def test_threads_leave_the_warning_filters_alone() -> None:
    import warnings

    content = encoded(Image.fromarray(RGB))
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [open_image(content) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_a_phones_pictures_are_read_and_bombs_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reading.pixel_limit() == 250_000_000 > 200e6  # the most that phones have
    assert reading.pixel_limit(7) == 7
    content = encoded(Image.new("L", (300, 200)))
    assert open_image(content, max_pixels=60_000).size == (300, 200)
    with pytest.raises(ImageReadError) as caught:
        open_image(content, "big.png", max_pixels=59_999)
    assert str(caught.value) == "big.png: has more pixels than the 59999 allowed; max_pixels=60000 lets it pass"
    assert caught.value.kind == "too large"
    path = tmp_path / "big.png"
    path.write_bytes(content)
    for source, name in ((path, str(path)), (io.BytesIO(content), "<stream>"), (content, "<bytes>")):
        with pytest.raises(ImageReadError, match=f"^{re.escape(name)}: has more pixels than the 59999 allowed"):
            open_image(source, max_pixels=59_999)
    with options_named(), pytest.raises(ImageReadError, match="allowed; --max-pixels 60000 lets it pass"):
        open_image(content, max_pixels=59_999)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # somebody allows any number
    assert reading.pixel_limit() is None
    assert open_image(content).size == (300, 200)


def test_what_pillow_holds_for_a_bomb_is_read_up_to_the_limit() -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert open_image(encoded(Image.new("1", (12_000, 9_000)))).size == (12_000, 9_000)
    # TIFF counts once more when it decodes, and refuses twice as many as Pillow allows.
    assert open_image(encoded(Image.new("1", (20_000, 10_000)), "TIFF")).size == (20_000, 10_000)
    with pytest.raises(ImageReadError, match="has more pixels than the 250000000 allowed; max_pixels=260000000 lets"):
        open_image(encoded(Image.new("1", (20_000, 13_000))))
    assert before == Image.MAX_IMAGE_PIXELS


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


LARGE = zlib.compress(bytes(3_000_000))
METADATA = {
    "profile": chunk(b"iCCP", b"big\0\0" + LARGE),
    "compressed text": chunk(b"zTXt", b"Comment\0\0" + LARGE),
    "international text": chunk(b"iTXt", b"Comment\0\1\0en\0Kommentar\0" + LARGE),
    "much text": chunk(b"tEXt", b"Comment\0" + b"x" * 1_000_000) * 70,
}


@pytest.mark.parametrize("kind", METADATA)
@pytest.mark.parametrize("behind", [False, True])
def test_large_metadata_of_a_sound_png(kind: str, behind: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    content = encoded(Image.fromarray(RGB), exif=exif)
    place = len(content) - 12 if behind else 33
    image = open_image(content[:place] + METADATA[kind] + content[place:])
    np.testing.assert_array_equal(np.asarray(image), RGB[::-1, ::-1])


def test_large_metadata_of_a_cut_png_does_not_mend_it() -> None:
    content = encoded(Image.fromarray(RGB))
    broken = content[:33] + METADATA["profile"] + content[33 : len(content) // 2]
    with pytest.raises(ImageReadError, match=r"^cut: is truncated or damaged"):
        open_image(broken, "cut")


def test_small_texts_are_kept_beside_large_ones() -> None:
    packed = zlib.compress(b"hello")
    texts = {
        "packed": chunk(b"zTXt", b"packed\0\0" + packed),
        "plain": chunk(b"tEXt", b"plain\0hello"),
        "international": chunk(b"iTXt", b"international\0\0\0en\0in allen Sprachen\0hello"),
        "packed international": chunk(b"iTXt", b"packed international\0\1\0en\0in allen Sprachen\0" + packed),
    }
    content = encoded(Image.fromarray(RGB))
    image = open_image(content[:33] + METADATA["profile"] + b"".join(texts.values()) + content[33:])
    assert {name: str(image.info.get(name)) for name in texts} == dict.fromkeys(texts, "hello")
    turned = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"0" * 131_000))  # as long as EXIF data may be
    image = open_image(content[:33] + METADATA["profile"] + turned + content[33:])
    assert len(str(image.info["Raw profile type exif"])) == 131_000
    assert "icc_profile" not in image.info


def test_heic_pictures_are_read() -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 48), (10, 200, 30))).save(buffer, quality=95)
    image = open_image(buffer.getvalue())
    assert image.size == (64, 48)
    np.testing.assert_allclose(image.getpixel((9, 9)), (10, 200, 30), atol=4)
    with pytest.raises(ImageReadError, match=r"^IMG_1\.HEIC: is a damaged HEIC picture$") as caught:
        open_image(buffer.getvalue()[:99], "IMG_1.HEIC")
    assert caught.value.kind == "damaged"


def test_heic_pictures_without_pillow_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "OPEN", {name: found for name, found in Image.OPEN.items() if name != "HEIF"})
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"):
        with pytest.raises(ImageReadError) as caught:
            open_image(b"\0\0\0\x18ftyp" + brand + bytes(99), "IMG_1.HEIC")
        assert str(caught.value) == "IMG_1.HEIC: is a HEIC picture; pip install 'vit-hybrid[heif]' reads these"
        assert caught.value.kind == "unreadable"


@pytest.mark.parametrize("other", [b"ftypisom", b"ftphheic", b"heicftyp"])
def test_films_of_the_same_family_are_no_pictures(other: bytes) -> None:
    with pytest.raises(ImageReadError, match=r"^movie\.mp4: is not a picture in a format that Pillow reads$"):
        open_image(b"\0\0\0\x18" + other + bytes(99), "movie.mp4")


# --- Levels ---

GRAY = RGB[..., 0]


def tiff(levels: np.ndarray) -> bytes:
    """An uncompressed TIFF of the array's own type, which Pillow writes only some of."""
    height, width = levels.shape
    kind = {"u": 1, "i": 2, "f": 3}[levels.dtype.kind]
    tags = [(256, 4, width), (257, 4, height), (258, 3, levels.dtype.itemsize * 8), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, 134), (277, 3, 1), (278, 4, height), (279, 4, levels.nbytes), (339, 3, kind)]
    entries = b"".join(struct.pack("<HHII", tag, size, 1, value) for tag, size, value in tags)
    content = levels.astype(levels.dtype.newbyteorder("<")).tobytes()
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + content


@pytest.mark.parametrize(
    "levels",
    [
        (GRAY / 255).astype(np.float32),
        GRAY.astype(np.float32),
        GRAY.astype(np.float32) * 257,
        GRAY.astype(np.uint16) * 257,
        GRAY.astype(np.int16),
        GRAY.astype(np.int32) * 257,
    ],
    ids=["fractions", "float of 255", "float of 65535", "uint16", "int16", "int32 of 65535"],
)
def test_levels_of_every_scale_are_the_same_picture(levels: np.ndarray) -> None:
    image = open_image(tiff(levels))
    np.testing.assert_array_equal(np.asarray(to_rgb(image))[..., 1], GRAY)
    given = upright(Image.open(io.BytesIO(tiff(levels))), None)
    np.testing.assert_array_equal(np.asarray(given), np.asarray(image))
    array = np.asarray(eight_bit_levels(levels))
    np.testing.assert_array_equal(to_8_bit(array) if array.dtype == np.uint16 else array, GRAY)


@pytest.mark.parametrize(
    ("level", "dtype", "reason"),
    [
        (np.nan, np.float32, "it has NaN or infinite values where pixels should be"),
        (np.inf, np.float32, "it has NaN or infinite values where pixels should be"),
        (-0.5, np.float32, "it has levels from -0.5 to 3; expected 0 to 255, 0 to 65535 or fractions of 0 to 1;"),
        (70_000, np.float32, "it has levels from 3 to 70000; "),
        (-0.01, np.float32, "it has levels from -0.01 to 3; "),
        (-1024, np.int16, "it has levels from -1024 to 3; "),
        (-7, np.int8, "it has levels from -7 to 3; "),
        (70_000, np.int32, "it has levels from 3 to 70000; "),
    ],
)
def test_levels_that_no_picture_has_are_refused(level: float, dtype: type, reason: str) -> None:
    levels = np.full((5, 6), 3, dtype)
    levels[2, 3] = level
    for read in (open_image, lambda content, name: upright(Image.open(io.BytesIO(content)), name)):
        with pytest.raises(ImageReadError, match=r"^odd\.tif: ") as caught:
            read(tiff(levels), "odd.tif")
        assert caught.value.reason.startswith(reason)
        assert caught.value.kind == reading.LEVELS
    with pytest.raises(ValueError, match=f"^{reason}"):
        eight_bit_levels(levels)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([-0.01, 0.0, 0.4, 1.02], [0, 0, 102, 255]),
        ([-0.25, 0.2, 1.0, 1.0], [0, 51, 255, 255]),
        ([0.0, 0.2, 0.6, 1.25], [0, 51, 153, 255]),
        ([0.0, 7.0, 102.0, 255.5], [0, 7, 102, 255]),
        ([0.0, 7.4, 102.6, 318.75], [0, 7, 103, 255]),
        ([0.0, 257.0, 514.0, 319.0], [0, 1, 2, 1]),
        ([0.0, 1.0, 2.0, 2.0], [0, 1, 2, 2]),
    ],
)
def test_what_resampling_leaves_beyond_a_scale_is_cut_off(levels: list[float], expected: list[int]) -> None:
    floats = np.float32(np.tile(levels, (3, 1)))
    for image in (open_image(tiff(floats)), upright(Image.open(io.BytesIO(tiff(floats))), None)):
        np.testing.assert_array_equal(np.asarray(image), np.tile(np.uint8(expected), (3, 1)))
    np.testing.assert_array_equal(eight_bit_levels(floats), np.tile(np.uint8(expected), (3, 1)))


@pytest.mark.parametrize("levels", [[0.0, 1.26], [0.5, 1.99], [-0.26, 1.0], [-0.5, 0.5], [-0.4, 1.25], [-0.2, -0.1]])
def test_floating_point_levels_of_no_scale_are_refused(levels: list[float]) -> None:
    with pytest.raises(ValueError, match=f"^it has levels from {levels[0]:g} to {levels[1]:g}; expected 0 to 255, "):
        eight_bit_levels(np.float32([levels]))


def test_levels_of_arrays_by_their_type() -> None:
    assert eight_bit_levels(np.array([0.0, 0.1, 0.5, 1.0])).tolist() == [0, 26, 128, 255]  # rounded, halves to even
    assert eight_bit_levels(np.array([True, False])).tolist() == [255, 0]
    assert eight_bit_levels(np.array([0, 1])).tolist() == [0, 1]
    assert eight_bit_levels(np.array([0, 257, 300])).tolist() == [0, 1, 1]  # a dark picture of 16 bits
    for kept in (np.array([1], np.uint8), np.array([9], np.uint16), np.array([7.5]), np.empty((0, 4))):
        assert eight_bit_levels(kept) is kept


def test_a_mode_that_cannot_become_rgb_is_refused() -> None:
    with pytest.raises(ImageReadError, match="<picture>: a picture of Pillow mode 'La' cannot be converted to RGB"):
        upright(Image.new("La", (5, 5)), None)


def test_a_picture_that_somebody_opened_may_be_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.fromarray(RGB))
    for name, said in (("mine", "mine"), (None, "<picture>")):
        with pytest.raises(ImageReadError, match=f"^{said}: is truncated or damaged ") as caught:
            upright(Image.open(io.BytesIO(content[: len(content) // 2])), name)
        assert caught.value.kind == "damaged"

    def stumble(*_: object) -> None:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(reading.ImageOps, "exif_transpose", stumble)  # damaged EXIF data cost the orientation only
    np.testing.assert_array_equal(np.asarray(upright(Image.open(io.BytesIO(content)), None)), RGB)


@pytest.mark.parametrize(
    ("error", "said", "kind"),
    [(MemoryError(), "MemoryError", reading.MEMORY), (SyntaxError("odd"), "odd", reading.DAMAGED)],
)
def test_too_little_memory_is_told_from_damage(
    error: Exception, said: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageReadError) as caught:
        open_image(tmp_path / "a.png")
    assert (caught.value.reason, caught.value.kind) == (f"is truncated or damaged ({said})", kind)
