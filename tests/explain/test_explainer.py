"""The one way to maps: what may be asked for, of which models, and that nothing is left behind."""

from __future__ import annotations

import gc
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_hybrid import tiny_config, tiny_processor

import vit_hybrid
from vit_hybrid import Predictor, ViTHybridForImageClassification
from vit_hybrid.explain import METHODS, Explainer, heat_png, overlay_png
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
            model.classifier.weight.fill_(float("nan"))
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

    @pytest.mark.parametrize("given", ["cow", "cats", 3, -1, "3", True, ""])
    def test_others_are_refused(self, explainer: Explainer, given: Any) -> None:
        with pytest.raises(
            ValueError, match="expected one of the model's 3 labels by its name, or its number, from 0 to 2"
        ):
            explainer.explain(picture(), "grad-cam", given)

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
            ("attention", {"head": 1, "fusion": "max"}, "fusion is for all heads, and head asks for a single one"),
            ("attention", {"token": (4, 0)}, "the tokens stand in 4 rows and 4 columns"),
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

    def test_pictures_of_another_size(self, tiny_folder: Path) -> None:
        explainer = Explainer.from_pretrained(tiny_folder, "cpu", image_size=(40, 64))
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

    def test_a_finer_map_on_the_grid_of_tokens(self, explainer: Explainer) -> None:
        [found] = explainer.explain(picture(), "grad-cam", 0, layer="stem")
        assert found.map.shape == (8, 8)
        assert found.tokens == pytest.approx(found.map.reshape(4, 2, 4, 2).mean((1, 3)))
