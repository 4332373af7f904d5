"""The one way to maps: what may be asked for, of which models, and that nothing is left behind."""

from __future__ import annotations

import gc
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_confidence import calibrated_copy
from PIL import Image
from tiny_hybrid import tiny_config, tiny_processor

import vit_hybrid
from vit_hybrid import Predictor, ViTHybridForImageClassification
from vit_hybrid.explain import METHODS, Explainer, heat_png, overlay_png
from vit_hybrid.explain.drawing import View
from vit_hybrid.explain.explainer import as_rgb, view_of
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.images.reading import ImageReadError
from vit_hybrid.model.token_merging import merge_tokens

LABELS = {0: "cat", 1: "Dog", 2: "7"}


def model_of(**changes: Any) -> Any:
    torch.manual_seed(0)
    return ViTHybridForImageClassification(tiny_config(**changes)).eval()


def picture(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def model() -> Any:
    return model_of(id2label=LABELS)


@pytest.fixture
def explainer(model: Any) -> Explainer:
    return Explainer(model, tiny_processor())


def hooks_of(model: Any) -> list[Any]:
    kinds = [name for name in vars(model) if "hook" in name and isinstance(vars(model)[name], dict)]
    assert "_forward_hooks" in kinds
    return [hook for module in model.modules() for kind in kinds for hook in vars(module)[kind].values()]


def state_of(model: Any) -> list[Any]:
    parameters = [(one.requires_grad, one.grad, one._version) for one in model.parameters()]
    modes = [module.training for module in model.modules()]
    return [parameters, modes, model.config._attn_implementation, model.config.to_dict(), hooks_of(model)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
class TestWhatIsLeftBehind:
    def test_nothing(self, method: str, attention: str) -> None:
        model = model_of(attn_implementation=attention)
        model.train()
        model.vit.encoder.layer[0].eval()  # whoever freezes a part keeps it so
        before = state_of(model)
        Explainer(model, tiny_processor()).explain(picture(), method)
        assert state_of(model) == before
        assert not hooks_of(model)

    def test_nothing_after_an_error(self, method: str, attention: str) -> None:
        model = model_of(attn_implementation=attention)
        model.train()
        before = state_of(model)
        explainer = Explainer(model, tiny_processor())
        with torch.no_grad():
            model.classifier.weight[1] = float("nan")
        before[0] = state_of(model)[0]
        with pytest.raises(ValueError, match="outputs are not finite numbers"):
            explainer.explain(picture(), method)
        assert state_of(model) == before


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_no_tensor_is_left_by_many_explanations(attention: str) -> None:
    explainer = Explainer(model_of(attn_implementation=attention), tiny_processor())

    def explain_all() -> int:
        for method in METHODS:
            explainer.explain(picture(), method, [0, 1])
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    before = explain_all()
    assert [explain_all() for _ in range(3)] == [before] * 3


@pytest.mark.parametrize("method", METHODS)
class TestWhoeverAsks:
    def test_with_gradients_off_or_all_weights_frozen(self, explainer: Explainer, method: str) -> None:
        [expected] = explainer.explain(picture(), method)
        for guard in (torch.no_grad(), torch.inference_mode()):
            with guard:
                [found] = explainer.explain(picture(), method)
            assert (found.map == expected.map).all()
        explainer.model.requires_grad_(False).fold_weight_standardization()
        [found] = explainer.explain(picture(), method)
        assert found.map == pytest.approx(expected.map, abs=1e-6)

    def test_a_predictor_is_explained_as_it_runs(self, model: Any, method: str) -> None:
        predictor = Predictor(model, tiny_processor())
        explainer = Explainer(predictor)
        assert explainer.twin is None
        [found] = explainer.explain(picture(), method)
        [prediction, *_] = predictor(picture())
        assert found.predictions[0] == {
            "label": prediction["label"],
            "probability": pytest.approx(prediction["probability"]),
        }
        assert found.map.any()
        other = Preprocessing(size=64, crop_size=(32, 32))
        pixels = [one.prepared(picture()) for one in (Explainer(predictor, other), Explainer(model, other), explainer)]
        assert (pixels[0] == pixels[1]).all()
        assert (pixels[0] != pixels[2]).any()

    def test_in_half_precision(self, model: Any, method: str) -> None:
        [expected] = Explainer(model, tiny_processor()).explain(picture(), method, 0)
        [found] = Explainer(model.bfloat16(), tiny_processor()).explain(picture(), method, 0)
        assert found.map.dtype == np.float32
        assert found.map == pytest.approx(expected.map, abs=0.2 * float(expected.map.max()))


class TestLabels:
    def test_the_first_that_the_model_gives_by_default(self, explainer: Explainer) -> None:
        [found] = explainer.explain(picture())
        assert found.label == found.predictions[0]["label"]
        assert LABELS[found.index] == found.label
        assert sum(one["probability"] for one in found.predictions) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("given", "index"), [("cat", 0), ("dog", 1), ("Dog", 1), (1, 1), ("1", 1), ("7", 2), (2, 2), ("0", 0)]
    )
    def test_by_name_or_number_and_a_name_comes_first(self, explainer: Explainer, given: Any, index: int) -> None:
        [found] = explainer.explain(picture(), "grad-cam", given)
        assert (found.index, found.label) == (index, LABELS[index])

    def test_several_give_several_maps_of_one_pass(self, explainer: Explainer) -> None:
        for method in ("grad-cam", "relevance", "legrad"):
            found = explainer.explain(picture(), method, ["Dog", 0, "cat"])
            assert [one.label for one in found] == ["Dog", "cat"]
            for one in found:
                [alone] = explainer.explain(picture(), method, one.label)
                assert (alone.map == one.map).all()
        assert (found[0].map != found[1].map).any()

    def test_a_name_is_taken_as_it_is_written_before_another_case(self) -> None:
        explainer = Explainer(model_of(id2label={0: "dog", 1: "Dog", 2: "cat"}), tiny_processor())
        for given, index in (("dog", 0), ("Dog", 1), ("CAT", 2)):
            assert explainer.explain(picture(), "grad-cam", given)[0].index == index
        with pytest.raises(ValueError, match=r"several labels are called 'DOG'; give the number of one: 0, 1\."):
            explainer.check("grad-cam", "DOG")
        many = Explainer(model_of(id2label=dict.fromkeys(range(9), "x"), num_labels=9), tiny_processor())
        with pytest.raises(ValueError, match=r"give the number of one: 0, 1, 2, 3, 4\.$"):
            many.check("grad-cam", "x")

    @pytest.mark.parametrize("given", ["cow", "cats", 3, -1, "3", True, ""])
    def test_others_are_refused(self, explainer: Explainer, given: Any) -> None:
        with pytest.raises(
            ValueError, match="expected one of the model's 3 labels by its name, or its number, from 0 to 2"
        ):
            explainer.explain(picture(), "grad-cam", given)

    def test_what_is_like_no_label_is_told_without_a_guess(self, explainer: Explainer) -> None:
        with pytest.raises(ValueError, match=r"labels has 'elephant'; .*, from 0 to 2\.$"):
            explainer.check("grad-cam", ["cat", "elephant"])

    def test_a_near_miss_is_told_of(self, explainer: Explainer) -> None:
        with pytest.raises(ValueError, match=r"did you mean 'cat'\?"):
            explainer.explain(picture(), "grad-cam", "cats")

    def test_a_name_that_several_have_is_refused(self) -> None:
        explainer = Explainer(model_of(id2label={0: "crane", 1: "crane", 2: "dog"}), tiny_processor())
        with pytest.raises(ValueError, match=r"several labels are called 'crane'; give the number of one: 0, 1\."):
            explainer.explain(picture(), "grad-cam", "crane")
        assert explainer.explain(picture(), "grad-cam", 1)[0].index == 1

    def test_attention_is_the_same_for_all(self, explainer: Explainer) -> None:
        [found] = explainer.explain(picture(), "rollout", ["cat", "Dog"])
        assert (found.label, found.index) == (None, None)

    def test_probabilities_are_those_that_a_calibrated_model_says(self, model: Any) -> None:
        predictor = Predictor(model, tiny_processor())
        confidence: Any = SimpleNamespace(calibrated=lambda logits: logits * 3)
        predictor.confidence = confidence
        [found] = Explainer(predictor).explain(picture(), "rollout")
        [logits] = predictor.logits(picture())
        expected = np.exp(3.0 * logits) / np.exp(3.0 * logits).sum()
        assert [one["probability"] for one in found.predictions] == pytest.approx(sorted(expected, reverse=True))

    def test_of_several_labels_each_has_a_probability(self) -> None:
        model = model_of(problem_type="multi_label_classification")
        found = Explainer(model, tiny_processor()).explain(picture(), "relevance", [0, 2])
        assert len(found) == 2
        for one in found[0].predictions:
            assert 0 < one["probability"] < 1
        assert sum(one["probability"] for one in found[0].predictions) != pytest.approx(1)

    def test_a_regression_has_values(self) -> None:
        model = model_of(problem_type="regression", num_labels=2)
        [found] = Explainer(model, tiny_processor()).explain(picture(), "grad-cam")
        assert (found.index, found.label) == (0, "LABEL_0")
        [values] = Predictor(model, tiny_processor()).logits(picture())
        assert [one["value"] for one in found.predictions] == pytest.approx(values, abs=1e-6)
        assert [one["label"] for one in found.predictions] == ["LABEL_0", "LABEL_1"]
        assert Explainer(model, tiny_processor()).explain(picture(), "grad-cam", 1)[0].index == 1

    def test_a_dense_layer_before_the_classifier_counts(self) -> None:
        explainer = Explainer(model_of(representation_size=6), tiny_processor())
        for method in ("grad-cam", "relevance", "legrad"):
            assert explainer.explain(picture(), method, 1)[0].map.max() > 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "how", "said"),
        [
            (
                "grad-cam",
                {"layer": "layer2"},
                "zero by structure: behind it the classifier reads the class token alone",
            ),
            ("grad-cam", {"layer": 2}, "Give 'layer1', the one before"),
            ("grad-cam", {"layer": "stage3"}, "this model has stem, stage1, stage2, layer1, layer2"),
            ("attention", {"layer": 3}, "attention is in layers 1 to 2"),
            ("attention", {"layer": "stage1"}, "attention is in layers 1 to 2"),
            ("attention", {"head": 3}, "the layers have heads 1 to 2"),
            ("attention", {"head": 0}, "head is 0; the layers have heads 1 to 2"),
            ("attention", {"layer": 0}, "layer is 0; attention is in layers 1 to 2"),
            ("grad-cam", {"layer": 0}, "layer is 'layer0'; this model has stem"),
            ("attention", {"head": 1, "fusion": "max"}, "fusion is for all heads, and head asks for a single one"),
            ("attention", {"token": (4, 0)}, "the tokens stand in 4 rows and 4 columns"),
            ("rollout", {"token": (0, 4)}, "token is 0,4; the tokens stand in 4 rows and 4 columns"),
            ("rollout", {"token": (-1, 0)}, "token is -1,0; "),
            ("rollout", {"token": (0, -1)}, "counted from 0: expected 0,0 to 3,3"),
            ("attention", {"discard": 0.5}, "discard is for rollout, and attention was asked for"),
            ("relevance", {"fusion": "max"}, "fusion is for rollout and attention, and relevance was asked for"),
            ("legrad", {"layer": "1"}, "layer is for attention and grad-cam, and legrad was asked for"),
            ("rollout", {"discard": 1.0}, "discard is 1; expected a share of 0 or more and below 1"),
            ("rollout", {"labels": "cow"}, "labels has 'cow'"),
            ("rollout", {"layer": 1}, "layer is for attention and grad-cam, and rollout was asked for"),
            ("relevance", {"discard": 0.5}, "discard is for rollout, and relevance was asked for"),
            ("grad-cam", {"head": 1}, "head is for attention, and grad-cam was asked for"),
            ("legrad", {"token": (0, 0)}, "token is for rollout and attention"),
            ("rollout", {"fusion": "sum"}, "fusion is 'sum'"),
            ("lime", {}, "method is 'lime'; expected rollout, attention, grad-cam, relevance, legrad"),
        ],
    )
    def test_what_cannot_be_done_is_said(self, explainer: Explainer, method: str, how: Any, said: str) -> None:
        with pytest.raises(ValueError, match=r"^.{1,500}$") as caught:
            explainer.explain(picture(), method, **how)
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("method", "layer", "expected"),
        [
            ("grad-cam", None, "stage2"),
            ("grad-cam", "stem", "stem"),
            ("grad-cam", "1", "layer1"),
            ("attention", None, "layer2"),
            ("attention", 1, "layer1"),
            ("rollout", None, None),
            ("relevance", None, None),
        ],
    )
    def test_the_layer_that_a_map_is_made_from(
        self, explainer: Explainer, method: Any, layer: Any, expected: str | None
    ) -> None:
        assert explainer.check(method, layer=layer) == expected

    def test_the_gradient_that_is_refused_is_zero(self, model: Any) -> None:
        pixels = torch.zeros(1, 3, 32, 32)
        found = model.forward_features(pixels, ["layer1", "layer2", "logits"])
        grads = torch.autograd.grad(found["logits"][0, 0], [found["layer2"], found["layer1"]])
        assert not grads[0][:, 1:].any()
        assert grads[1][:, 1:].any()

    def test_of_one_layer_the_map_before_it_is_named(self) -> None:
        explainer = Explainer(model_of(num_hidden_layers=1), tiny_processor())
        with pytest.raises(ValueError, match="Give 'stage2', the one before"):
            explainer.explain(picture(), "grad-cam", layer=1)
        assert explainer.check("attention", head=2) == "layer1"  # of more heads than layers

    def test_an_encoder_without_layers_has_maps_of_the_resnet_alone(self) -> None:
        explainer = Explainer(model_of(num_hidden_layers=0), tiny_processor())
        for method in ("rollout", "attention", "relevance", "legrad"):
            with pytest.raises(ValueError, match="this model's encoder has no layers, and so no attention to show"):
                explainer.check(method)
        with pytest.raises(ValueError, match="no attention to show"):
            explainer.heads(np.zeros((3, 32, 32), np.float32))
        assert explainer.check("grad-cam") == "stage2"

    def test_without_labels_there_is_nothing_of_them(self) -> None:
        explainer = Explainer(model_of(num_labels=0), tiny_processor())
        with pytest.raises(
            ValueError, match=r"^legrad explains a label, and this model has no classifier; rollout and"
        ):
            explainer.check("legrad")
        assert explainer.check("attention", layer=1) == "layer1"

    def test_a_model_that_merges_tokens(self, model: Any) -> None:
        explainer = Explainer(merge_tokens(model, 1), tiny_processor())
        with pytest.raises(ValueError, match="this model merges tokens"):
            explainer.explain(picture())

    def test_no_preprocessing(self, model: Any) -> None:
        with pytest.raises(ValueError, match="There is no preprocessing"):
            Explainer(model)

    def test_a_picture_that_cannot_be_read(self, explainer: Explainer) -> None:
        with pytest.raises(ImageReadError, match=r"^nothing\.jpg: no such file$"):
            explainer.explain("nothing.jpg")
        with pytest.raises(ImageReadError, match=r"^mine: "):
            explainer.explain(b"no picture", name="mine")
        with pytest.raises(ImageReadError, match=r"^this: "):
            explainer.prepared(b"no picture", "this")


class TestPictures:
    @pytest.mark.parametrize("size", [(60, 40), (40, 60), (32, 32), (33, 200)])
    def test_the_map_lies_over_what_the_model_saw(self, explainer: Explainer, size: tuple[int, int]) -> None:
        [found] = explainer.explain(picture(*size), "rollout")
        assert found.picture.size == size
        at_picture = found.at_picture()
        assert at_picture.shape == size[::-1]
        left, top, right, bottom = found.view.corners()
        assert (right - left, bottom - top) == pytest.approx((min(size), min(size)), abs=max(size) / min(size))
        inside = at_picture[round(top) + 1 : round(bottom) - 1, round(left) + 1 : round(right) - 1]
        assert (inside > 0).all()
        seen = found.view.seen()
        assert not at_picture[~seen].any()
        assert at_picture[seen].min() >= found.map.min() * 0.999
        assert at_picture.max() == pytest.approx(found.map.max(), rel=0.1)

    def test_every_kind_of_source(self, explainer: Explainer, tmp_path: Path) -> None:
        path = tmp_path / "x.png"
        picture().save(path)
        levels = np.asarray(picture())
        [expected] = explainer.explain(path, "grad-cam")
        with path.open("rb") as file:
            sources = [str(path), path.read_bytes(), file, picture(), levels, levels.transpose(2, 0, 1), levels / 255]
            for source in [*sources, torch.tensor(levels)]:
                [found] = explainer.explain(source, "grad-cam", expected.label)
                assert found.map == pytest.approx(expected.map, abs=1e-2 * float(expected.map.max()))
                assert found.picture.size == (60, 40)
                assert np.abs(np.asarray(found.picture, int) - levels).max() <= 1

    def test_what_is_no_level_is_shown_in_gray(self) -> None:
        values = np.random.default_rng(0).normal(size=(3, 6, 9)).astype(np.float32)
        found = as_rgb(values)
        gray = values.mean(0)
        expected = 255 * (gray - gray.min()) / np.ptp(gray)
        assert (found.mode, found.size) == ("RGB", (9, 6))
        assert np.abs(np.asarray(found, float) - expected[..., None]).max() <= 0.51

    @pytest.mark.parametrize(
        ("steps", "resized", "box"),
        [
            ({}, (32, 64), (0, 16, 32, 48)),
            ({"do_center_crop": False}, (32, 64), (0, 0, 32, 64)),
            ({"do_resize": False}, (40, 80), (4, 24, 36, 56)),
            ({"do_resize": False, "do_center_crop": False}, (40, 80), (0, 0, 40, 80)),
            ({"crop_size": (40, 16)}, (32, 64), (-4, 24, 36, 40)),
            ({"size": (50, 60), "do_center_crop": False}, (50, 60), (0, 0, 50, 60)),
        ],
    )
    def test_what_preprocessing_leaves_of_a_picture(self, steps: Any, resized: Any, box: Any) -> None:
        given: Any = {"size": 32, "crop_size": (32, 32), **steps}
        assert view_of(Preprocessing(**given), (80, 40)) == View((80, 40), resized, box)

    @pytest.mark.parametrize("channels", [1, 2, 5])
    def test_pictures_of_other_channels(self, channels: int) -> None:
        backbone = {**tiny_config().backbone_config.to_dict(), "num_channels": channels}
        model = model_of(num_channels=channels, backbone_config=backbone)
        steps = dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"), False)
        pixels = np.random.default_rng(1).standard_normal((channels, 32, 32)).astype(np.float32)
        if channels == 1:
            [found] = Explainer(model, Preprocessing(**steps)).explain(pixels, "relevance", 0)
            assert found.picture.mode == "RGB"
            shown, least, most = np.asarray(found.picture, float), pixels[0].min(), pixels[0].max()
            expected = 255 * (pixels[0] - least) / (most - least)  # from its least level to its most
            assert np.abs(shown - expected[..., None]).max() <= 0.51
            assert Image.open(io.BytesIO(overlay_png(found))).size == (32, 32)
        else:  # of which no picture is made, here as elsewhere
            with pytest.raises(ValueError, match="has no axis of 1, 3 or 4 channels"):
                Explainer(model, Preprocessing(**steps)).explain(pixels)

    def test_pngs(self, explainer: Explainer) -> None:
        [found] = explainer.explain(picture(), "rollout")
        for content in (heat_png(found), overlay_png(found)):
            image = Image.open(io.BytesIO(content))
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (60, 40))
        for content in (heat_png(found, 30), overlay_png(found, 30)):
            assert Image.open(io.BytesIO(content)).size == (30, 20)
        assert heat_png(found) == heat_png(found)
        heat = np.asarray(Image.open(io.BytesIO(heat_png(found))), int).sum(-1)
        assert np.unravel_index(heat.argmax(), heat.shape) == np.unravel_index(found.at_picture().argmax(), heat.shape)


class TestOpening:
    def test_a_folder(self, tiny_folder: Path) -> None:
        explainer = Explainer.from_pretrained(tiny_folder, "cpu")
        [found] = explainer.explain(picture(), "relevance", 1)
        [same] = vit_hybrid.explain(picture(), "relevance", 1, model=tiny_folder, device="cpu")
        assert (found.map == same.map).all()
        assert explainer.model.is_folded

    def test_in_one_call_all_that_is_asked_for_is_handed_on(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []
        explaining = SimpleNamespace(explain=lambda *given, **how: (given, how))
        monkeypatch.setattr(
            Explainer, "from_pretrained", lambda *given, **how: asked.append((given, how)) or explaining
        )
        opening: dict[str, Any] = {"image_size": (4, 6), "max_pixels": 7}
        how: dict[str, Any] = {"fusion": "max", "name": "it"}
        found: Any = vit_hybrid.explain("a.jpg", "rollout", [1], model="a model", device="cpu", **opening, **how)
        assert (asked, found) == ([(("a model", "cpu"), opening)], (("a.jpg", "rollout", [1]), how))
        file = io.BytesIO()
        picture().save(file, "PNG")
        with pytest.raises(ImageReadError, match="has more pixels than the 7 allowed"):
            vit_hybrid.explain(file.getvalue(), model=model, preprocessing=tiny_processor(), max_pixels=7)

    def test_by_a_name_that_begins_at_home_with_limits_of_its_own(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tiny_folder.parent))
        explainer = Explainer.from_pretrained(f"~/{tiny_folder.name}", "cpu", max_pixels=60 * 40)
        file = io.BytesIO()
        picture().save(file, "PNG")
        assert explainer.explain(file.getvalue(), "rollout")[0].picture.size == (60, 40)
        picture(61).save(file, "PNG")
        with pytest.raises(ImageReadError, match="has more pixels than the 2400 allowed"):
            explainer.explain(file.getvalue()[file.getvalue().rindex(b"\x89PNG") :], "rollout")
        with pytest.raises(ValueError, match="Device 'nothing' cannot be used here"):
            Explainer.from_pretrained(tiny_folder, "nothing")

    def test_probabilities_are_calibrated_unless_they_are_to_be_the_models_own(
        self, tiny_folder: Path, tmp_path: Path
    ) -> None:
        folder = calibrated_copy(tiny_folder, tmp_path / "calibrated")
        found = {}
        for confidence in (True, False):
            explainer = Explainer.from_pretrained(folder, "cpu", confidence=confidence)
            predictor = Predictor.from_pretrained(folder, engine="torch", device="cpu", confidence=confidence)
            said = [one["probability"] for one in explainer.explain(picture(), "rollout")[0].predictions]
            assert said == pytest.approx([one["probability"] for one in predictor(picture())], abs=1e-5)
            found[confidence] = said[0]
        assert found[True] != pytest.approx(found[False], abs=1e-4)
        [by_default] = vit_hybrid.explain(picture(), "rollout", model=folder, device="cpu")
        assert by_default.predictions[0]["probability"] == pytest.approx(found[True])

    def test_pictures_of_another_size(self, tiny_folder: Path) -> None:
        explainer = Explainer.from_pretrained(tiny_folder, "cpu", image_size=(40, 64))
        [found] = explainer.explain(picture(64, 40), "rollout", token=(4, 7))
        assert found.map.any()
        with pytest.raises(ValueError, match="token is 5,0; the tokens stand in 5 rows and 8 columns"):
            explainer.explain(picture(64, 40), "rollout", token=(5, 0))
        larger = Explainer(model_of(), Preprocessing(size=48, crop_size=(48, 48)))
        assert larger.explain(picture(), "rollout", token=(5, 5))[0].grid == (6, 6)
        whole = Explainer(model_of(), Preprocessing(size=(48, 48), crop_size=(32, 32), do_center_crop=False))
        assert whole.explain(picture(), "rollout", token=(5, 5))[0].grid == (6, 6)
        for method in METHODS:
            [found] = explainer.explain(picture(64, 40), method)
            assert found.grid == (5, 8)
            assert found.tokens.shape == (5, 8)

    def test_a_model_without_a_classifier_has_attention_to_show(self, tmp_path: Path, model: Any) -> None:
        model.vit.save_pretrained(tmp_path)
        tiny_processor().save_pretrained(tmp_path)
        explainer = Explainer.from_pretrained(tmp_path, "cpu")
        [found] = explainer.explain(picture(), "rollout")
        assert found.predictions == []
        [expected] = Explainer(model, tiny_processor()).explain(picture(), "rollout")
        assert found.map == pytest.approx(expected.map, abs=1e-6)
        with pytest.raises(ValueError, match=r"no classifier .*; rollout and attention need none"):
            explainer.explain(picture(), "grad-cam")
        with pytest.raises(
            ValueError, match=r"label, and this model has no classifier \(.*classifier.*[^.]\); rollout"
        ):
            explainer.check("relevance")

    def test_a_finer_map_on_the_grid_of_tokens(self, explainer: Explainer) -> None:
        [found] = explainer.explain(picture(), "grad-cam", 0, layer="stem")
        assert found.map.shape == (8, 8)
        assert found.tokens == pytest.approx(found.map.reshape(4, 2, 4, 2).mean((1, 3)))
        one = found.map == found.map.max()
        assert [replace(found, map=found.map * by).is_empty for by in (0, 1, one)] == [True, False, False]
