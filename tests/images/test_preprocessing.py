from __future__ import annotations

import io
import logging
from pathlib import Path

import fresh_process
import legacy_pictures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vit_hybrid.images import preprocessing
from vit_hybrid.images.levels import Picture, rescale
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.images.reading import open_image

RGB = legacy_pictures.levels(17, 23)
SMALL = Preprocessing(size=14, crop_size=(12, 13))
# What google/vit-hybrid-base-bit-384 ships.
PUBLISHED = {
    "crop_size": {"height": 384, "width": 384},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTHybridImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 384},
}


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def step_by_step(image: Image.Image, steps: Preprocessing) -> np.ndarray:
    """The definition of the result (C, H, W), without anything that makes it fast."""
    pixels = np.asarray(image.resize(preprocessing.resized_size(image.height, image.width, steps.size)[::-1], 3))
    top = (pixels.shape[0] - steps.crop_size[0]) // 2
    left = (pixels.shape[1] - steps.crop_size[1]) // 2
    pixels = pixels[top : top + steps.crop_size[0], left : left + steps.crop_size[1]]
    rescaled = (pixels.astype(np.float64) / 255).astype(np.float32)
    return ((rescaled - np.float32(steps.image_mean)) / np.float32(steps.image_std)).transpose(2, 0, 1)


def test_neither_torch_nor_transformers_is_loaded() -> None:
    loaded = fresh_process.run(
        "import sys, vit_hybrid.images.preprocessing; print({'torch', 'transformers'} & set(sys.modules))"
    )
    assert loaded.strip() == "set()"


# --- The whole ---


def test_photos_equal_the_definition(data_dir: Path) -> None:
    steps = Preprocessing.from_dict(PUBLISHED)
    photos = [open_image(path).convert("RGB") for path in sorted((data_dir / "photos").glob("*.JPEG"))[::4]]
    assert photos
    np.testing.assert_array_equal(steps(photos), np.stack([step_by_step(photo, steps) for photo in photos]))


def test_batch_is_one_piece_of_memory() -> None:
    pictures = [Image.fromarray(RGB), Image.fromarray(RGB.transpose(1, 0, 2)), RGB]
    batch = SMALL(pictures)
    assert batch.shape == (3, 3, 12, 13)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    assert batch.base is None
    for picture, values in zip(pictures, batch, strict=True):
        np.testing.assert_array_equal(SMALL([picture])[0], values)


def test_different_sizes_make_a_list_and_no_batch() -> None:
    steps = Preprocessing(size=14, do_center_crop=False)
    results = steps.run([Image.fromarray(RGB), Image.fromarray(RGB.transpose(1, 0, 2))])
    assert [result.shape for result in results] == [(3, 14, 18), (3, 18, 14)]
    with pytest.raises(ValueError, match=r"do not fit into one batch: .*\(3, 14, 18\) float32, \(3, 18, 14\)"):
        steps([Image.fromarray(RGB), Image.fromarray(RGB.transpose(1, 0, 2))])
    # Equal sizes are a batch, although nothing said beforehand that they would be.
    assert steps([Image.fromarray(RGB)] * 2).shape == (2, 3, 14, 18)


def test_result_is_float32_even_without_rescaling() -> None:
    levels = Preprocessing(size=14, crop_size=(12, 13), do_rescale=False, do_normalize=False)
    assert levels.run([RGB]).dtype == np.uint8
    assert levels([RGB]).dtype == np.float32


def test_images_of_several_types_make_a_list_and_no_batch() -> None:
    plain = Preprocessing(do_resize=False, crop_size=(5, 6), do_rescale=False, do_normalize=False)
    images = [RGB, RGB / 255]
    found = plain.run(images)
    assert [one.dtype for one in found] == [np.uint8, np.float64]
    np.testing.assert_array_equal(found[1], plain.run(images[1:])[0])
    with pytest.raises(ValueError, match=r"they are \(3, 5, 6\) float64, \(3, 5, 6\) uint8"):
        plain(images)


def test_padding_does_not_change_what_is_padded() -> None:
    plain = Preprocessing(do_resize=False, crop_size=(19, 23), do_rescale=False, do_normalize=False)
    found = plain.run([RGB / 255], "channels_last")[0]
    np.testing.assert_array_equal(found[1:18], RGB / 255)
    assert not found[0].any()
    assert not found[18].any()


def test_a_factor_of_zero_makes_everything_black() -> None:
    assert not Preprocessing(size=14, crop_size=(12, 13), rescale_factor=0.0, do_normalize=False)([RGB]).any()


@given(
    factor=st.sampled_from([1 / 255, 1 / 127.5, 1 / 256, 0.01, 1.0, 3.7, 1e-9]) | st.floats(1e-6, 1e6),
    mean=st.tuples(*[st.floats(-2, 2)] * 3) | st.floats(-2, 2),
    std=st.tuples(*[st.floats(1e-3, 10)] * 3) | st.floats(1e-3, 10),
    dtype=st.sampled_from(["uint8", "int32", "float32", "float64"]),
    data_format=st.sampled_from(["channels_first", "channels_last"]),
)
def test_values_are_written_as_rescale_and_normalize_compute_them(factor, mean, std, dtype, data_format) -> None:
    steps = Preprocessing(do_resize=False, do_center_crop=False, rescale_factor=factor, image_mean=mean, image_std=std)
    levels = np.arange(768).reshape(16, 16, 3) % 256
    values = steps.run([levels.astype(dtype)], data_format)[0]
    expected = preprocessing.normalize(rescale(levels, factor), mean, std)
    np.testing.assert_array_equal(values if data_format == "channels_last" else values.transpose(1, 2, 0), expected)


def test_inputs_are_not_changed() -> None:
    image = (RGB / 255).astype(np.float32)
    image.flags.writeable = False
    kept = image.copy()
    Preprocessing(do_resize=False, do_center_crop=False, do_rescale=False).run([image], "channels_last")
    np.testing.assert_array_equal(image, kept)


def test_levels_that_nothing_is_done_to_come_in_the_byte_order_of_this_machine() -> None:
    steps = Preprocessing(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
    for dtype in (">f4", "<f4", ">i2"):
        [found] = steps.run([RGB.astype(dtype)], "channels_last")
        assert found.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(found, RGB)


def test_nan_and_infinity_are_never_hidden() -> None:
    image = (RGB / 255).astype(np.float32)
    image[3, 4, 1], image[5, 6, 2] = np.nan, np.inf
    for picture in (image, Image.fromarray(image[..., 1])):
        with pytest.raises(ValueError, match="NaN or infinite"):
            SMALL([picture])
    values = Preprocessing(do_resize=False, do_center_crop=False)([image])[0]
    assert np.isnan(values[1, 3, 4])
    assert np.isinf(values[2, 5, 6])
    assert np.isfinite(values).sum() == image.size - 2


def test_an_error_names_the_image() -> None:
    with pytest.raises(ValueError, match=r"^image 2 of 3: an image of shape \(5, 6, 7\) has no axis of"):
        SMALL([RGB, np.zeros((5, 6, 7)), RGB])
    with pytest.raises(ValueError, match=r"^an image of shape \(5, 6, 7\) has no axis of"):  # of one there is no need
        SMALL([np.zeros((5, 6, 7))])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (Image.new("RGB", (0, 5)), "0 x 5 has no pixels"),
        (np.zeros((2, 2, 5, 3), np.uint8), "no axis of"),
        (RGB.astype(np.complex64), "not complex64"),
        (RGB.astype(object), "not object"),
        (RGB - 300.0, "range from -300"),
        (RGB.astype(np.int32) * 2, "whole numbers of 0..255 or fractions of 0..1"),
        (RGB * 0.9, "whole numbers of 0..255 or fractions of 0..1"),
        (RGB * 1e30, "whole numbers of 0..255 or fractions of 0..1"),
    ],
)
def test_what_is_no_picture_is_refused(image: Picture, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL([image])


def test_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="no image was given"):
        SMALL([])


@pytest.mark.parametrize("argument", ["data_format", "input_data_format"])
def test_unknown_layout_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be one of .*'channels_last'.*got 'last'"):
        SMALL.run([RGB], **{argument: "last"})


# --- Configuration ---


def test_published_file_is_read() -> None:
    assert Preprocessing.from_dict(PUBLISHED) == Preprocessing(
        size=384, crop_size=(384, 384), image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5)
    )
    assert Preprocessing.from_dict({}) == Preprocessing()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"size": 96}, {"size": 96}),
        ({"size": [96, 80]}, {"size": (96, 80)}),
        ({"size": {"height": 96, "width": 80}}, {"size": (96, 80)}),
        ({"size": {"shortest_edge": 96, "longest_edge": 100}}, {"size": 96}),
        ({"crop_size": 96}, {"crop_size": (96, 96)}),
        ({"crop_size": (96, 80)}, {"crop_size": (96, 80)}),
        ({"image_mean": 0.5, "image_std": [0.1, 0.2, 0.3]}, {"image_mean": 0.5, "image_std": (0.1, 0.2, 0.3)}),
        ({"size": None, "crop_size": None, "image_mean": None, "image_std": None}, {}),
        ({"do_rescale": None, "rescale_factor": None}, {"do_rescale": False, "rescale_factor": None}),
        ({"do_resize": False, "size": {"max_height": 5, "max_width": 5}}, {"do_resize": False}),
        ({"do_center_crop": False, "crop_size": {"shortest_edge": 5}}, {"do_center_crop": False}),
    ],
)
def test_fields_of_a_file(given: dict[str, object], expected: dict[str, object]) -> None:
    assert Preprocessing.from_dict(given) == Preprocessing(**expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": {"longest_edge": 9}}, r'"shortest_edge", or "height" and "width", got {\'longest_edge\': 9}'),
        ({"size": {"shortest_edge": 0}}, "positive number of pixels, got 0"),
        ({"size": [9, -1]}, "the width in size must be a positive number of pixels, got -1"),
        ({"size": [9, 9, 9]}, "positive number"),
        ({"size": "large"}, "got 'large'"),
        ({"size": 9.5}, "got 9.5"),
        ({"crop_size": {"height": 9}}, '"height" and "width"'),
        ({"crop_size": 0}, "crop_size must be a positive number of pixels, got 0"),
        ({"size": [0, 9]}, "the height in size must be a positive number of pixels, got 0"),
        ({"crop_size": [0, 9]}, "the height in crop_size must be a positive number of pixels, got 0"),
        ({"crop_size": [9, 0.5]}, "the width in crop_size must be a positive number of pixels, got 0.5"),
        ({"resample": 99}, r"3 \(bicubic\).* got 99"),
        ({"resample": None}, "got None"),
        ({"rescale_factor": None}, "do_rescale needs a rescale_factor"),
    ],
)
def test_fields_that_cannot_work_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_dict(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"image_mean": (0.5, 0.5)},
            "^image_mean has 2 values, but the image has 3 channels: give one value for all channels or one for each$",
        ),
        ({"image_std": (0.5,)}, "image_std has 1 value, but the image has 3 channels"),
        ({"image_std": (0.5, 0.0, 0.5)}, "image_std must not contain 0"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(size=14, crop_size=(12, 13), **given)([Image.fromarray(RGB)])


# --- Layouts and channels ---


def test_ambiguous_layout_follows_the_first_image(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "vit_hybrid")
    flat = RGB[:3]
    np.testing.assert_array_equal(SMALL([RGB, flat])[1], SMALL([Image.fromarray(flat)])[0])
    np.testing.assert_array_equal(SMALL([Image.fromarray(RGB), flat])[1], SMALL([Image.fromarray(flat)])[0])
    assert not caplog.records
    np.testing.assert_array_equal(SMALL([flat]), SMALL.run([flat], input_data_format="channels_first"))
    assert "(3, 23, 3) may have its channels first or last" in caplog.text


@pytest.mark.parametrize("height", [1, 3])
def test_flat_pictures_have_their_channels_last(height: int) -> None:
    flat = RGB[:height]
    expected = SMALL.run([flat], input_data_format="channels_last")
    np.testing.assert_array_equal(SMALL([Image.fromarray(flat)]), expected)


def test_every_layout_gives_the_same() -> None:
    expected = SMALL([Image.fromarray(RGB)])
    for layout, image in (("channels_last", RGB), ("channels_first", RGB.transpose(2, 0, 1))):
        for stated in (layout, None):
            np.testing.assert_array_equal(SMALL.run([image], input_data_format=stated), expected)
    gray = [RGB[..., 0], RGB[..., :1], RGB[None, ..., 0]]
    np.testing.assert_array_equal(SMALL(gray), SMALL([Image.fromarray(RGB[..., 0])] * 3))


def test_unset_data_format_keeps_each_layout() -> None:
    scalar = Preprocessing(size=14, crop_size=(12, 13), image_mean=0.5, image_std=0.5)
    images = [Image.fromarray(RGB), RGB, RGB.transpose(2, 0, 1), RGB[..., 0]]
    shapes = [result.shape for result in scalar.run(images, None)]
    assert shapes == [(12, 13, 3), (12, 13, 3), (3, 12, 13), (12, 13)]
    assert SMALL.run([RGB[..., 0]], None).shape == (1, 12, 13, 3)  # three means made it RGB


def test_arrays_become_rgb_like_pictures_where_three_values_are_expected() -> None:
    alpha = legacy_pictures.levels(17, 23, 4)
    np.testing.assert_array_equal(SMALL([alpha]), SMALL([Image.fromarray(alpha)]))
    unconverted = Preprocessing(size=14, crop_size=(12, 13), do_convert_rgb=False)
    for image in (alpha, Image.fromarray(alpha)):
        with pytest.raises(ValueError, match=r"3 values, but the image has 4 channels.*convert the image to RGB"):
            unconverted([image])
    # One value for all channels asks for no conversion: as in 4.49 the array keeps its channels.
    scalar = Preprocessing(size=14, crop_size=(12, 13), image_mean=0.5, image_std=0.5)
    assert scalar([alpha]).shape == (1, 4, 12, 13)
    assert Preprocessing(size=14, crop_size=(12, 13), do_normalize=False)([alpha]).shape == (1, 4, 12, 13)
    for three in ({"image_mean": 0.5}, {"image_std": 0.5}):  # of mean and deviation the other has three values
        assert Preprocessing(size=14, crop_size=(12, 13), **three)([alpha]).shape == (1, 3, 12, 13)


def test_palettes_are_refused_without_conversion() -> None:
    for palette in (legacy_pictures.picture("P"), legacy_pictures.picture("LA").convert("PA")):
        with pytest.raises(ValueError, match="palette picture has no channels of its own"):
            Preprocessing(do_convert_rgb=False)([palette])


def test_unconverted_grayscale_has_one_channel() -> None:
    steps = Preprocessing(size=14, crop_size=(12, 13), do_convert_rgb=False, image_mean=0.5, image_std=0.5)
    gray = legacy_pictures.picture("L")
    assert steps([gray]).shape == (1, 1, 12, 13)
    np.testing.assert_array_equal(steps([gray])[0, 0], steps([gray.convert("RGB")])[0, 0])
    np.testing.assert_array_equal(
        steps([legacy_pictures.picture("1")]), steps([legacy_pictures.picture("1").convert("L")])
    )


# --- 16 bits ---


def test_16_bit_pictures_equal_8_bit_ones() -> None:
    gray = RGB[..., 0]
    deep = gray.astype(np.uint16) * 257
    expected = SMALL([Image.fromarray(gray)])
    big_endian = Image.frombytes("I;16B", (23, 17), deep.astype(">u2").tobytes())
    read = open_image(encoded(Image.fromarray(deep)))
    assert read.mode.startswith("I")
    for image in (Image.fromarray(deep), big_endian, Image.fromarray(deep.astype(np.int32)), read, deep, deep[None]):
        np.testing.assert_array_equal(SMALL([image]), expected)
    color = RGB.astype(np.uint16) * 257
    np.testing.assert_array_equal(SMALL([color, color.astype(">u2")]), SMALL([RGB, RGB]))
    unresized = Preprocessing(do_resize=False, do_center_crop=False)
    np.testing.assert_array_equal(unresized([color]), unresized([RGB]))
    unconverted = Preprocessing(do_convert_rgb=False, image_mean=0.5, image_std=0.5)
    np.testing.assert_array_equal(unconverted([Image.fromarray(deep)]), unconverted([Image.fromarray(gray)]))


@pytest.mark.parametrize("extreme", [-1, 65536])
def test_32_bit_levels_beyond_16_bits_are_refused(extreme: int) -> None:
    levels = np.full((5, 5), 300, np.int32)
    levels[2, 2] = extreme
    with pytest.raises(ValueError, match=f"{extreme}.*scale them to 0..65535"):
        SMALL([Image.fromarray(levels)])


# --- The steps ---


@given(
    height=st.integers(1, 120),
    width=st.integers(1, 160),
    edge=st.integers(4, 100),
    crop=st.tuples(st.integers(1, 110), st.integers(1, 110)),
    resample=st.sampled_from(list(Image.Resampling)),
    channels=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_fast_resize_and_crop_is_exact(height, width, edge, crop, resample, channels, seed) -> None:
    width = min(width, 15 * height)  # keeps the resized picture small
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    image = Image.fromarray(levels[..., 0] if channels == 1 else levels)
    fast = preprocessing.resize_and_center_crop(image, edge, crop, resample)
    plain = preprocessing.center_crop(preprocessing.resize(image, edge, resample), crop)
    assert fast.size == crop[::-1]
    np.testing.assert_array_equal(np.asarray(fast), np.asarray(plain))


@pytest.mark.parametrize("size", [(500, 375), (500, 333), (500, 334), (640, 480), (475, 395), (1024, 300), (4000, 301)])
def test_fast_resize_and_crop_is_exact_at_the_sizes_of_photos(size: tuple[int, int]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    for edge in (224, 384):
        fast = preprocessing.resize_and_center_crop(image, edge, (edge, edge), Image.Resampling.BICUBIC)
        plain = preprocessing.center_crop(preprocessing.resize(image, edge, 3), (edge, edge))
        np.testing.assert_array_equal(np.asarray(fast), np.asarray(plain))


@pytest.mark.parametrize("resample", [1, 2, 3])
def test_fast_resize_and_crop_is_exact_where_single_precision_rounds_an_edge(resample: int) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (40, 20481), dtype=np.uint8)
    image, crop = Image.fromarray(levels), (3, 301)
    assert preprocessing.resized_size(40, 20481, 8) == (8, 4096)
    edge = (4096 - 301) // 2 * 20481 / 4096  # where the crop begins
    assert edge != float(np.float32(edge))
    fast = preprocessing.resize_and_center_crop(image, 8, crop, resample)
    plain = preprocessing.center_crop(preprocessing.resize(image, 8, resample), crop)
    np.testing.assert_array_equal(np.asarray(fast), np.asarray(plain))


@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 9)), size=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_center_crop_of_arrays_and_pictures_agree(shape: tuple[int, int], size: tuple[int, int]) -> None:
    image = legacy_pictures.levels(*shape) | 1  # zero is padding
    cropped = preprocessing.center_crop(image, size)
    np.testing.assert_array_equal(cropped, np.asarray(preprocessing.center_crop(Image.fromarray(image), size)))
    assert cropped.shape == (*size, 3)
    assert (cropped > 0).sum() == 3 * min(shape[0], size[0]) * min(shape[1], size[1])


def test_center_crop_takes_the_middle() -> None:
    image = np.arange(1, 6, dtype=np.uint8).reshape(1, 5, 1)
    assert preprocessing.center_crop(image, (1, 2)).ravel().tolist() == [2, 3]
    assert preprocessing.center_crop(image, (1, 8)).ravel().tolist() == [0, 0, 1, 2, 3, 4, 5, 0]


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [(395, 475, 384, (384, 461)), (475, 395, 384, (461, 384)), (50, 50, 7, (7, 7)), (50, 60, (8, 9), (8, 9))],
)
def test_resized_size(height: int, width: int, size: preprocessing.Size, expected: tuple[int, int]) -> None:
    assert preprocessing.resized_size(height, width, size) == expected


def test_an_ambiguous_array_follows_the_first_one_and_not_the_one_before_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "vit_hybrid")
    steps = Preprocessing(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
    first, last, ambiguous = ((3, 5, 7), (5, 7, 3), (3, 4, 3))
    for shapes, expected in (((first, last, ambiguous), (3, 4, 3)), ((last, first, ambiguous), (3, 3, 4))):
        found = steps.run([np.zeros(shape, np.uint8) for shape in shapes])
        assert [one.shape for one in found] == [(3, 5, 7), (3, 5, 7), expected]
    assert not caplog.records  # there is nothing to guess
