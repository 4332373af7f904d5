"""How the published hybrids are evaluated, which stands in where a model does not say how its pictures are prepared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vit_hybrid.checkpoints import published, timm
from vit_hybrid.errors import EngineWarning
from vit_hybrid.images.preprocessing import Preprocessing


@pytest.mark.parametrize(
    ("release", "size", "edge"),
    [("vit_base_r26_s32_224", 224, 248), ("vit_base_r50_s16_384", 384, 384), ("vit_tiny_r_s16_p8_224", 64, 71)],
)
def test_is_what_timm_does(release: str, size: int, edge: int) -> None:
    processor = published.processor((size, size))
    assert processor.to_dict() == timm.image_processor(release, image_size=size).to_dict()
    assert published.preprocessing((size, size)) == Preprocessing.from_dict(processor.to_dict())
    assert processor.size == {"shortest_edge": edge}
    assert (processor.crop_size, processor.resample) == ({"height": size, "width": size}, 3)
    assert processor.image_mean == processor.image_std == [0.5, 0.5, 0.5]


def test_sides_that_differ_are_resized_to_exactly() -> None:
    found = published.preprocessing((32, 48))
    assert found.size == found.crop_size == (32, 48)


@pytest.mark.parametrize(
    ("size", "share"), [((224, 224), 0.9), ((383, 383), 0.9), ((384, 384), 1.0), ((384, 224), 0.9), ((224, 384), 0.9)]
)
def test_large_pictures_alone_have_no_border_that_is_cut_off(size: tuple[int, int], share: float) -> None:
    assert published.crop_share(size) == share


def test_the_model_in_the_package_sees_the_middle_of_sharper_pictures() -> None:
    """It was trained on crops, and held-back pictures chose the shorter edge that it sees them best at."""
    from vit_hybrid import ViTHybridImageProcessor
    from vit_hybrid.assets import BUILT_IN_FOLDER

    saved = ViTHybridImageProcessor.from_pretrained(BUILT_IN_FOLDER)
    whole = published.processor((64, 64), whole=True).to_dict()
    assert saved.to_dict() == {**whole, "size": {"shortest_edge": 76}}


def test_one_channel() -> None:
    found = published.preprocessing((32, 32), channels=1)
    assert (found.image_mean, found.do_convert_rgb) == ((0.5,), False)
    assert found([np.full((40, 40), 255, np.uint8)]).shape == (1, 1, 32, 32)
    assert found([np.full((40, 40), 255, np.uint8)]).max() == 1.0


def test_the_word_to_the_user() -> None:
    with pytest.warns(EngineWarning) as caught:
        published.warn_of_stand_in("mine", "its size\nis odd.")
    assert str(caught[0].message) == (
        "mine: the model does not say how images are prepared (its size is odd); they are prepared as for the "
        "published hybrids"
    )
    with pytest.warns(EngineWarning, match=r"^mine: the model does not say how images are prepared; they are prepared"):
        published.warn_of_stand_in("mine")


@pytest.mark.parametrize("prefix", ["", "timm/", "hf-hub:timm/", "hf_hub:timm/"])
def test_names_of_releases(prefix: str) -> None:
    found = published.named_release(f"{prefix}vit_base_r50_s16_384.orig_in21k_ft_in1k@main")
    assert found is not None
    assert (found.preset.name, found.image_size, found.num_labels) == ("R50+B/16", 384, 1000)
    for model in ("vit_small_resnet26d_224", "VIT_Small_ResNet26d_224.mine"):
        for given in (f"{prefix}{model}", f"hf-hub:owner/{model}", f"owner/{model}"):
            with pytest.raises(ValueError, match=f"'{model}' is a hybrid of timm's whose .* no BiT ResNet"):
                published.named_release(given)


def test_names_of_anything_else() -> None:
    assert published.named_release("owner/name") is None
    for ending in ("pth", "PTH", "SafeTensors"):
        assert published.named_release(f"vit_base_r50_s16_384.{ending}") is None
    assert published.named_release("vit_base_r50_s16_384.pth.tar") is None
    assert published.named_release("timm/vit_base_r50_s16_384.of_a_later_release") is None
    for owner in ("", "timm/", "hf-hub:timm/", "hf_hub:timm/"):
        with pytest.raises(ValueError, match="No published hybrid is called 'vit_base_patch16_224'"):
            published.named_release(f"{owner}vit_base_patch16_224.augreg_in21k")
    assert published.named_release("owner/vit_base_patch16_224.augreg_in21k") is None


def test_what_lies_here_is_no_release_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert published.named_release("vit_base_r50_s16_384") is not None
    (tmp_path / "vit_base_r50_s16_384").mkdir()
    assert published.named_release("vit_base_r50_s16_384") is None
