from __future__ import annotations

import io
import logging
import os
import pickle
import threading
from pathlib import Path

import legacy_pictures
import numpy as np
import pytest
from PIL import Image

from vit_hybrid.images import reading
from vit_hybrid.images.reading import ImageReadError, open_image

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
        for source in (path, str(path), content, bytearray(content), io.BytesIO(content), file):
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
    empty = tmp_path / "empty.jpg"
    empty.touch()
    for path, reason in (
        (tmp_path / "absent.jpg", "no such file"),
        (tmp_path, "is a folder, not a picture"),
        (empty, "is empty"),
        (text, "is not a picture in a format that Pillow reads"),
        (text / "below", "cannot be opened (Not a directory)"),
    ):
        with pytest.raises(ImageReadError) as caught:
            open_image(path)
        assert str(caught.value) == f"{path}: {reason}"
        assert (caught.value.name, caught.value.reason) == (str(path), reason)
    with pytest.raises(ImageReadError, match=r"cannot be opened \(.*null"):
        open_image("\0.jpg")


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
        with pytest.raises(ImageReadError, match=r"^cut: is "):
            open_image(content[:length], "cut")


def test_unreadable_stream() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("connection lost")

    with pytest.raises(ImageReadError, match=r"<stream>: cannot be read \(connection lost\)"):
        open_image(Broken())
    with pytest.raises(TypeError, match="binary mode"):
        open_image(io.StringIO("text"))
    with pytest.raises(TypeError, match="not from int"):
        open_image(3)


@pytest.mark.parametrize("limit", [RGB.shape[0] * RGB.shape[1] - 1, 100])  # Pillow warns of the one, refuses the other
def test_decompression_bombs(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageReadError, match=f"bomb.png: has more pixels than the {limit} "):
        open_image(encoded(Image.fromarray(RGB)), "bomb.png")


def test_error_is_one_line_and_survives_pickling() -> None:
    with pytest.raises(ImageReadError) as caught:
        open_image(b"x", "first\nsecond\t.png")
    assert str(caught.value) == "first second .png: is not a picture in a format that Pillow reads"
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, ImageReadError)
    assert (str(again), again.name, again.reason) == (str(caught.value), caught.value.name, caught.value.reason)


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
