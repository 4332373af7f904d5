from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import legacy_pictures
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import ChannelDimension, SizeDict
from transformers.utils import TensorType

from vit_hybrid import ViTHybridImageProcessor
from vit_hybrid.images import image_processing, preprocessing

# What transformers 4.49 gives is to be met within this; both compute in single precision.
TOLERANCE = 1e-6
RGB = legacy_pictures.levels(17, 23)
PICTURE = Image.fromarray(RGB)
# The fields that transformers 4.49 writes.
FIELDS = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "ViTHybridImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 224},
}


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(legacy_pictures.RECORDED) as arrays:
        return dict(arrays)


@pytest.fixture
def small() -> ViTHybridImageProcessor:
    return ViTHybridImageProcessor(size=14, crop_size=(12, 13))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the processor logs. Warnings that transformers logs once are logged again."""
    logging.Logger.warning_once.cache_clear()
    image_processing.logger.addHandler(caplog.handler)
    yield caplog
    image_processing.logger.removeHandler(caplog.handler)


def values(processor: ViTHybridImageProcessor, images: Any, **arguments: Any) -> np.ndarray:
    return processor(images, return_tensors="np", **arguments)["pixel_values"]


# --- What transformers 4.49 gave ---


@pytest.mark.parametrize("name", legacy_pictures.CASES)
def test_results_are_those_of_transformers_4_49(name: str, recorded: dict[str, np.ndarray]) -> None:
    case = legacy_pictures.CASES[name]
    results = ViTHybridImageProcessor()(case.images, **case.arguments)["pixel_values"]
    assert isinstance(results, list)
    assert len(results) == len(case.images)
    for index, result in enumerate(results):
        expected = recorded[f"{name}/{index}"]
        result = legacy_pictures.sampled(result, case)
        assert result.dtype == expected.dtype
        assert result.shape == expected.shape
        np.testing.assert_allclose(result.astype(np.float64), expected.astype(np.float64), rtol=0, atol=TOLERANCE)


def test_every_recorded_array_is_compared(recorded: dict[str, np.ndarray]) -> None:
    compared = {f"{name}/{i}" for name, case in legacy_pictures.CASES.items() for i in range(len(case.images))}
    assert compared == set(recorded)


# --- Configuration ---


def test_defaults_and_the_saved_file(tmp_path: Path) -> None:
    processor = ViTHybridImageProcessor()
    assert processor.model_input_names == ["pixel_values"] == [*processor(PICTURE)]
    for name, value in FIELDS.items():
        if name != "image_processor_type":
            assert getattr(processor, name) == value
    (saved,) = processor.save_pretrained(tmp_path)
    assert json.loads(Path(saved).read_text()) == FIELDS
    assert ViTHybridImageProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


def test_preprocessing_reads_the_saved_fields(small: ViTHybridImageProcessor) -> None:
    steps = preprocessing.Preprocessing.from_dict(small.to_dict())
    np.testing.assert_array_equal(steps([PICTURE]), values(small, PICTURE))


def test_files_of_older_versions_are_read() -> None:
    old = {
        **FIELDS,
        "feature_extractor_type": "ViTHybridFeatureExtractor",
        "_valid_processor_keys": ["images", "do_resize"],
        "crop_size": 96,
        "size": 100,
    }
    processor = ViTHybridImageProcessor.from_dict(old)
    assert processor.size == {"shortest_edge": 100}
    assert processor.crop_size == {"height": 96, "width": 96}
    assert {"images", "do_resize", "input_data_format"} <= {*processor._valid_processor_keys}  # as in 4.49
    assert not {"self", "kwargs"} & {*processor._valid_processor_keys}
    assert not {"feature_extractor_type", "_valid_processor_keys"} & set(processor.to_dict())


@pytest.mark.parametrize("arguments", [{"use_fast": True}, {"use_fast": False}, {"backend": "torchvision"}])
def test_there_is_one_class_for_all_backends(tmp_path: Path, arguments: dict[str, Any]) -> None:
    ViTHybridImageProcessor(size=50).save_pretrained(tmp_path)
    processor = ViTHybridImageProcessor.from_pretrained(tmp_path, size=40, **arguments)
    assert type(processor) is ViTHybridImageProcessor
    assert processor.backend == "pil"
    assert processor.to_dict() == ViTHybridImageProcessor(size=40).to_dict()


def test_instances_share_nothing() -> None:
    first, second = ViTHybridImageProcessor(), ViTHybridImageProcessor()
    first.size["shortest_edge"] = first.crop_size["height"] = first.image_mean[0] = first.image_std[0] = -1
    assert second.to_dict() == FIELDS


def test_none_means_no_step_and_is_saved(tmp_path: Path) -> None:
    ViTHybridImageProcessor(do_resize=None, do_center_crop=None).save_pretrained(tmp_path)
    processor = ViTHybridImageProcessor.from_pretrained(tmp_path)
    assert processor.do_resize is None
    assert values(processor, PICTURE).shape == (1, 3, 17, 23)


def test_sizes_of_transformers_5_are_taken(small: ViTHybridImageProcessor) -> None:
    sizes = {"size": SizeDict(shortest_edge=14), "crop_size": SizeDict(height=12, width=13)}
    np.testing.assert_array_equal(values(ViTHybridImageProcessor(**sizes), PICTURE), values(small, PICTURE))
    np.testing.assert_array_equal(values(ViTHybridImageProcessor(), PICTURE, **sizes), values(small, PICTURE))


def test_arguments_of_a_call_replace_those_of_the_processor(small: ViTHybridImageProcessor) -> None:
    arguments: dict[str, Any] = {
        "size": {"height": 9, "width": 10},
        "crop_size": 8,
        "resample": Image.Resampling.NEAREST,
        "rescale_factor": 0.01,
        "image_mean": np.array([0.1, 0.2, 0.3]),
        "image_std": 0.7,
    }
    before = small.to_dict()
    expected = values(ViTHybridImageProcessor(**arguments), PICTURE)
    np.testing.assert_array_equal(values(small, PICTURE, **arguments), expected)
    assert small.to_dict() == before
    gray = values(small, PICTURE.convert("L"), do_convert_rgb=False, image_mean=0.5, image_std=0.5)
    assert gray.shape == (1, 1, 12, 13)
    plain = values(small, PICTURE, do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
    np.testing.assert_array_equal(plain[0], RGB.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": {"foo": 1}}, "size must have one of the following set of keys"),
        ({"size": "large"}, "large"),
        ({"size": {"longest_edge": 9}}, '"shortest_edge", or "height" and "width"'),
        ({"crop_size": {"shortest_edge": 9}}, '"height" and "width"'),
        ({"size": -1}, "positive number of pixels, got -1"),
        ({"resample": 99}, "got 99"),
        ({"image_mean": [0.5, 0.5]}, "image_mean has 2 values"),
        ({"image_std": [0.5, 0.5, 0.0]}, "image_std must not contain 0"),
        ({"data_format": "last"}, "data_format must be one of"),
        ({"data_format": "none"}, "data_format must be one of"),
        ({"input_data_format": "last"}, "input_data_format must be one of"),
        ({"return_tensors": "tf"}, "tf"),
    ],
)
def test_arguments_that_cannot_work_are_refused(
    small: ViTHybridImageProcessor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small(PICTURE, **arguments)


def test_steps_without_their_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="do_rescale needs a rescale_factor"):
        ViTHybridImageProcessor(rescale_factor=None)(PICTURE)
    with pytest.raises(ValueError, match="do_resize needs resample"):
        ViTHybridImageProcessor(resample=None)(PICTURE)


def test_unknown_arguments_are_ignored_with_a_warning(
    small: ViTHybridImageProcessor, log: pytest.LogCaptureFixture
) -> None:
    np.testing.assert_array_equal(values(small, PICTURE, do_flip=True, device="cpu"), values(small, PICTURE))
    assert "Unused or unrecognized kwargs: do_flip, device." in log.text
    small(PICTURE, do_flop=True)
    assert "Unused or unrecognized kwargs: do_flop." in log.text


@pytest.mark.parametrize("image", [(RGB / 255), np.zeros((17, 23, 3), np.int64), torch.rand(3, 17, 23)])
def test_rescaling_twice_is_warned_of(
    small: ViTHybridImageProcessor, log: pytest.LogCaptureFixture, image: Any
) -> None:
    small([image, RGB], do_rescale=False)
    small([RGB, image])  # the first one decides, as in 4.49
    small([np.zeros_like(RGB)])  # 8-bit levels that are all black
    assert not log.records
    small([image, RGB])
    assert "set `do_rescale=False`" in log.text


# --- Inputs ---


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64, torch.bfloat16])
def test_tensors_equal_arrays(small: ViTHybridImageProcessor, dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(RGB).to(dtype)
    expected = values(small, PICTURE)
    for image in (tensor, tensor.permute(2, 0, 1), tensor[None], [tensor, tensor][:1]):
        np.testing.assert_array_equal(values(small, image), expected)


def test_tensors_with_gradients_and_16_bits(small: ViTHybridImageProcessor) -> None:
    expected = values(small, PICTURE)
    np.testing.assert_array_equal(values(small, torch.from_numpy(RGB).float().requires_grad_()), expected)
    deep = torch.from_numpy(RGB.astype(np.uint16) * 257)
    np.testing.assert_array_equal(values(small, deep), expected)


def test_lists_of_lists_and_batches_are_flattened(small: ViTHybridImageProcessor) -> None:
    batch = np.stack([RGB, 255 - RGB])
    expected = values(small, list(batch))
    pictures = [Image.fromarray(image) for image in batch]
    nested = [[pictures[:1], pictures[1:]], ([pictures[0]], (pictures[1],)), [list(batch), []]]
    for images in (batch, torch.from_numpy(batch), batch.transpose(0, 3, 1, 2), [batch], *nested):
        np.testing.assert_array_equal(values(small, images), expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_kinds_of_images_may_be_mixed(small: ViTHybridImageProcessor, channels: int) -> None:
    image = legacy_pictures.levels(17, 23, channels)
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    last, first = torch.from_numpy(image), torch.from_numpy(image).permute(2, 0, 1)
    results = values(small, [picture, image, first.numpy(), last, first])
    assert results.shape == (5, 3, 12, 13)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_grayscale_without_a_channel_axis(small: ViTHybridImageProcessor) -> None:
    gray = np.stack([RGB[..., 0], RGB[..., 1]])
    expected = values(small, [Image.fromarray(image) for image in gray])
    np.testing.assert_array_equal(values(small, list(gray)), expected)
    # Only with its layout named can an array of three axes be a batch of these.
    np.testing.assert_array_equal(values(small, gray, input_data_format="none"), expected)
    np.testing.assert_array_equal(values(small, gray[0], input_data_format="none"), expected[:1])
    with pytest.raises(ValueError, match="an image has 2 axes and a batch 3, but an array of shape"):
        small(gray[None], input_data_format="none")
    with pytest.raises(ValueError, match=r'layout "channels_last" has 3 axes, but this one has shape \(17, 23\)'):
        small(gray[0], input_data_format="channels_last")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "not NoneType"),
        ({"image": PICTURE}, "not dict"),
        ("photo.jpg", "not 'photo.jpg': open the file first"),
        ([PICTURE, 3], "not int"),
        ([], "no image was given"),
        ([[], []], "no image was given"),
        (np.zeros((2, 2, 2, 5, 5), np.uint8), r"3 axes and a batch 4, but an array of shape \(2, 2, 2, 5, 5\)"),
        (np.zeros(5, np.uint8), "an array of shape .5,. came"),
        ([RGB, np.zeros((5, 6, 7))], r"image 2 of 2: .*\(5, 6, 7\) has no axis of 1, 3 or 4 channels"),
        (RGB * np.nan, "NaN or infinite"),
        (RGB.astype(np.int32) - 40, "levels range from -40"),
    ],
)
def test_what_is_no_image_is_refused(small: ViTHybridImageProcessor, images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(images)


# --- Outputs ---


def test_kinds_of_results(small: ViTHybridImageProcessor) -> None:
    listed = small([PICTURE, RGB])["pixel_values"]
    assert isinstance(listed, list)
    assert all(isinstance(result, np.ndarray) and result.shape == (3, 12, 13) for result in listed)
    for kind, expected in (("np", np.ndarray), ("pt", torch.Tensor), (TensorType.PYTORCH, torch.Tensor)):
        result = small.preprocess([PICTURE, RGB], return_tensors=kind)["pixel_values"]
        assert isinstance(result, expected)
        assert str(result.dtype).endswith("float32")
        np.testing.assert_array_equal(np.asarray(result), np.stack(listed))


def test_tensor_shares_the_preallocated_batch(small: ViTHybridImageProcessor) -> None:
    tensor = small([PICTURE, RGB], return_tensors="pt")["pixel_values"]
    assert tensor.is_contiguous()
    assert tensor.untyped_storage().nbytes() == tensor.numel() * 4
    first, second = small([PICTURE, RGB])["pixel_values"]
    assert first.base is second.base


def test_different_sizes_need_a_list(small: ViTHybridImageProcessor) -> None:
    images = [PICTURE, PICTURE.rotate(90, expand=True)]
    shapes = [result.shape for result in small(images, do_center_crop=False)["pixel_values"]]
    assert shapes == [(3, 14, 18), (3, 18, 14)]
    for kind in ("np", "pt"):
        for data_format in ("channels_first", "channels_last"):
            with pytest.raises(ValueError, match=r"do not fit into one batch.*do_center_crop=True"):
                small(images, do_center_crop=False, return_tensors=kind, data_format=data_format)


def test_layout_of_results(small: ViTHybridImageProcessor) -> None:
    first = values(small, PICTURE)
    for data_format in ("channels_last", ChannelDimension.LAST):
        np.testing.assert_array_equal(values(small, PICTURE, data_format=data_format), np.moveaxis(first, 1, -1))
    for image, shape in ((PICTURE, (1, 12, 13, 3)), (RGB, (1, 12, 13, 3)), (RGB.transpose(2, 0, 1), (1, 3, 12, 13))):
        assert values(small, image, data_format=None).shape == shape


# --- The steps as methods ---


@pytest.mark.parametrize("kind", ["last", "first", "named-last", "named-first"])
def test_steps_as_methods_make_the_whole(small: ViTHybridImageProcessor, kind: str) -> None:
    layout = {"last": ChannelDimension.LAST, "first": ChannelDimension.FIRST}[kind.removeprefix("named-")]
    named: dict[str, Any] = {"input_data_format": layout} if kind.startswith("named") else {}
    image = RGB if layout == ChannelDimension.LAST else RGB.transpose(2, 0, 1)
    image = small.resize(image, size=small.size, **named)
    assert image.dtype == np.uint8
    image = small.center_crop(image, size=small.crop_size, **named)
    image = small.rescale(image, scale=small.rescale_factor, **named)
    assert image.dtype == np.float32
    normalized = small.normalize(image, mean=small.image_mean, std=small.image_std, **named)
    expected = small(PICTURE, data_format=layout)["pixel_values"][0]
    np.testing.assert_array_equal(normalized, expected)
    other = small.normalize(image, small.image_mean, small.image_std, data_format="channels_first", **named)
    np.testing.assert_array_equal(other, small(PICTURE)["pixel_values"][0])


def test_resize_of_fractions_and_to_pictures(small: ViTHybridImageProcessor) -> None:
    whole = small.resize(RGB, {"height": 9, "width": 8})
    picture = small.resize(PICTURE, {"height": 9, "width": 8}, return_numpy=False)
    np.testing.assert_array_equal(np.asarray(picture), whole)
    fractions = small.resize((RGB / 255).astype(np.float32), {"height": 9, "width": 8})
    assert fractions.dtype == np.float32
    np.testing.assert_allclose(fractions, whole / 255, atol=2 / 255)  # fractions are cut off before
    gray = small.resize(RGB[..., 0], {"shortest_edge": 9})
    assert gray.shape == (9, 12)
    large = np.tile(RGB, (8, 8, 1))
    reduced = small.resize(large, 9, reducing_gap=1.5)
    expected = Image.fromarray(large).resize((12, 9), Image.Resampling.BICUBIC, reducing_gap=1.5)
    np.testing.assert_array_equal(reduced, np.asarray(expected))
    assert (reduced != small.resize(large, 9)).any()
    nearest = small.resize(large, 9, resample=Image.Resampling.NEAREST)
    np.testing.assert_array_equal(nearest, np.asarray(Image.fromarray(large).resize((12, 9), Image.Resampling.NEAREST)))
    with pytest.raises(ValueError, match="size must have one of"):
        small.resize(RGB, {"depth": 9})


def test_steps_as_methods_take_a_layout_at_its_word(small: ViTHybridImageProcessor) -> None:
    ambiguous = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    for named, expected in (("channels_last", ambiguous.transpose(2, 0, 1)), ("channels_first", ambiguous)):
        given = {"input_data_format": named, "data_format": "channels_first"}
        np.testing.assert_array_equal(small.rescale(ambiguous, 1.0, **given), expected)
        np.testing.assert_array_equal(small.normalize(ambiguous, 0.0, 1.0, **given), expected)
        height, width = expected.shape[1:]
        found = small.center_crop(ambiguous, {"height": height - 1, "width": width}, **given)
        np.testing.assert_array_equal(found, expected[:, :-1])
        found = small.resize(ambiguous, {"height": height, "width": width}, **given)
        np.testing.assert_array_equal(found, expected)


def test_methods_take_16_bits_and_refuse_what_does_not_fit(small: ViTHybridImageProcessor) -> None:
    deep = RGB.astype(np.uint16) * 257
    np.testing.assert_array_equal(small.rescale(deep, 1 / 255), small.rescale(RGB, 1 / 255))
    assert small.rescale(RGB, 1 / 255, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(small.normalize(RGB / 255, 0.1, 0.3), (RGB / 255 - 0.1) / 0.3)  # in all digits
    with pytest.raises(ValueError, match="2 values, but the image has 3 channels"):
        small.normalize(RGB, [0.5, 0.5], 1.0)
    with pytest.raises(ValueError, match='"height" and "width"'):
        small.center_crop(RGB, {"shortest_edge": 3})
