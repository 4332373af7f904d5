"""A hybrid in PyTorch alone, held to the classes; what is left to these; and that transformers stays out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fresh_process
import hub_server
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_hybrid import HYBRIDS, IMAGE_SIZE, random_model, save_tiny_model, tiny_processor

import vit_hybrid
from vit_hybrid import Predictor, ViTHybridForImageClassification
from vit_hybrid.explain import METHODS, Explainer
from vit_hybrid.explain.checking import check
from vit_hybrid.explain.hybrid import Classifier
from vit_hybrid.explain.paper import figure
from vit_hybrid.explain.plain import ACTIVATIONS, PlainHybrid, from_files

CPU = torch.device("cpu")
TOLERANCE = 1e-6
WEIGHTS = "model.safetensors"


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def read(folder: Path) -> PlainHybrid | None:
    return from_files(json.loads((folder / "config.json").read_text()), sorted(folder.glob("*.safetensors*")), CPU)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    assert found.shape == expected.shape
    return float((found - expected).detach().abs().max()) <= TOLERANCE * max(1.0, float(expected.detach().abs().max()))


def pictures(config: Any, size: tuple[int, int] | None = None) -> torch.Tensor:
    height, width = size or np.broadcast_to(config.image_size, 2)
    torch.manual_seed(1)
    return torch.randn(2, config.num_channels, height, width)


def hold(plain: PlainHybrid | None, model: Any, pixels: torch.Tensor) -> None:
    """Every output, and every gradient of a logit by one."""
    assert plain is not None
    config = model.config
    attention = [f"attention{number + 1}" for number in range(config.num_hidden_layers)]
    names = [*config.feature_names, *attention, "logits"]
    found = plain.outputs(pixels.clone().requires_grad_(), names)
    expected = model.forward_features(pixels.clone().requires_grad_(), names, interpolate_pos_encoding=True)
    assert [*found] == names
    for name in names:
        assert same(found[name], expected[name]), name
    before = [name for name in names if name != "logits"]
    gradients = [
        torch.autograd.grad(one["logits"][:, 0].sum(), [one[name] for name in before], allow_unused=True)
        for one in (found, expected)
    ]
    for name, *both in zip(before, *gradients, strict=True):
        assert both[1] is not None, name
        assert same(*both), name
    with torch.no_grad():
        assert same(plain.logits(pixels), model(pixels, interpolate_pos_encoding=True).logits)
        for name in config.feature_names:
            if name.startswith("layer"):
                assert same(plain.classified(found[name]), Classifier(model).classified(expected[name]))


@pytest.mark.parametrize("kind", HYBRIDS)
def test_is_the_model(kind: str, tmp_path: Path) -> None:
    model = random_model(2.0, **HYBRIDS[kind])
    plain = read(saved(model, tmp_path))
    hold(plain, model, pictures(model.config))
    assert plain is not None
    assert same(plain.stem_filters, Classifier(model).stem_filters)
    assert same(plain.position_embeddings, model.vit.embeddings.position_embeddings)


@pytest.mark.parametrize("kind", ["tiny", "PyTorch's padding", "preactivation", "dilated", "a stage before the last"])
@pytest.mark.parametrize("size", [(48, 80), (80, 48), (33, 47)])
def test_takes_pictures_of_other_sizes(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    model = random_model(2.0, **HYBRIDS[kind])
    hold(read(saved(model, tmp_path)), model, pictures(model.config, size))


def test_borders_are_cut_off_where_nothing_is_padded(tmp_path: Path) -> None:
    stem = {"depths": [], "hidden_sizes": [], "embedding_size": 16, "num_groups": 4, "layer_type": "bottleneck"}
    model = random_model(2.0, image_size=65, backbone_config={**stem, "global_padding": "VALID"})
    assert model.config.backbone_featmap_shape == [1, 16, 15, 15]
    hold(read(saved(model, tmp_path)), model, pictures(model.config))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_transformers(name: str) -> None:
    from transformers.activations import ACT2FN

    x = torch.linspace(-6, 6, 1001)
    assert float((ACTIVATIONS[name](x) - ACT2FN[name](x)).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_kinds_are_used_in_single_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    saved(random_model(2.0).to(dtype), tmp_path)
    model = ViTHybridForImageClassification.from_pretrained(tmp_path, dtype=torch.float32)
    hold(read(tmp_path), model, pictures(model.config))


def test_weights_in_several_files(tmp_path: Path) -> None:
    model = random_model(2.0)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 1
    hold(read(tmp_path), model, pictures(model.config))
    next(tmp_path.glob("*-00001-of-*")).unlink()
    assert read(tmp_path) is None


def test_where_no_gradients_are_kept_it_can_be_read_all_the_same(tmp_path: Path) -> None:
    model = random_model(2.0)
    with torch.inference_mode():
        plain = read(saved(model, tmp_path))
    hold(plain, model, pictures(model.config))


def test_what_does_not_fit_is_said_as_the_model_says_it(tmp_path: Path) -> None:
    model = random_model(patch_size=2)
    plain = read(saved(model, tmp_path))
    assert plain is not None
    for shape in ((1, 1, IMAGE_SIZE, IMAGE_SIZE), (1, 3, 5, IMAGE_SIZE)):
        said = []
        for one in (plain, Classifier(model)):
            with pytest.raises(ValueError, match=r"Give larger images|made for 3") as caught:
                one.outputs(torch.zeros(shape), ["logits"])
            said.append(str(caught.value))
        assert said[0] == said[1]


def changed(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def with_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        weights = {name: one.clone() for name, one in load_file(folder / WEIGHTS).items()}  # apart from the file
        change(weights)
        save_file(weights, folder / WEIGHTS)

    return apply


def with_backbone(**fields: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        changed(
            folder, backbone_config={**json.loads((folder / "config.json").read_text())["backbone_config"], **fields}
        )

    return apply


BIAS = "vit.layernorm.bias"
# What is not plainly a hybrid's; the classes refuse most of it.
OTHERS: dict[str, Callable[[Path], Any]] = {
    "an activation": lambda folder: changed(folder, hidden_act="mish"),
    "an activation of the ResNet": with_backbone(hidden_act="mish"),
    "more groups than a narrow map has channels": with_backbone(num_groups=16),
    "quantized": lambda folder: changed(folder, quantization_config={"quant_method": "bitsandbytes"}),
    "another shape": lambda folder: changed(folder, backbone_featmap_shape=[1, 32, 8, 2]),
    "other labels": lambda folder: changed(folder, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}),
    "too small": lambda folder: changed(folder, patch_size=8, backbone_featmap_shape=None),
    "a weight less": with_weights(lambda weights: weights.pop(BIAS)),
    "a weight more": with_weights(lambda weights: weights.update(more=torch.zeros(1))),
    "a weight of another size": with_weights(lambda weights: weights.update({BIAS: torch.zeros(1)})),
    "whole numbers": with_weights(lambda weights: weights.update({BIAS: torch.zeros(16, dtype=torch.int64)})),
    "no classifier": with_weights(lambda weights: [weights.pop(f"classifier.{part}") for part in ("weight", "bias")]),
    "damaged": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1]),
    "none": lambda folder: (folder / WEIGHTS).unlink(),
}


def test_of_a_map_whose_shape_is_not_said_it_is_computed(tmp_path: Path) -> None:
    model = random_model()
    changed(saved(model, tmp_path), backbone_featmap_shape=None)
    hold(read(tmp_path), model, pictures(model.config))


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_plainly_a_hybrid_is_left_to_the_classes(kind: str, tmp_path: Path) -> None:
    saved(random_model(), tmp_path)
    assert read(tmp_path) is not None
    OTHERS[kind](tmp_path)
    assert read(tmp_path) is None


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("plain") / "model")


class TestExplainer:
    @pytest.mark.parametrize("method", METHODS)
    def test_maps_are_those_of_the_classifier(self, folder: Path, picture: Image.Image, method: str) -> None:
        explainer = Explainer.from_pretrained(folder, "cpu")
        assert isinstance(explainer.hybrid, PlainHybrid)
        [found] = explainer.explain(picture, method)
        predictor = Predictor.from_pretrained(folder, engine="torch", device="cpu", precision="f32")
        [expected] = Explainer(predictor).explain(picture, method)
        assert found.label == expected.label
        assert found.map == pytest.approx(expected.map, abs=TOLERANCE)
        assert found.predictions[0]["probability"] == pytest.approx(expected.predictions[0]["probability"])

    @pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
    def test_of_every_kind_of_problem(self, problem: str, picture: Image.Image, tmp_path: Path) -> None:
        model = random_model(problem_type=problem)
        tiny_processor().save_pretrained(saved(model, tmp_path))
        [found] = vit_hybrid.explain(picture, labels=1, model=tmp_path, device="cpu")
        [expected] = Explainer(model, tiny_processor()).explain(picture, labels=1)
        assert found.map == pytest.approx(expected.map, abs=TOLERANCE)
        assert [one["label"] for one in found.predictions] == [one["label"] for one in expected.predictions]
        kind = "value" if problem == "regression" else "probability"
        assert [one[kind] for one in found.predictions] == pytest.approx([one[kind] for one in expected.predictions])

    def test_the_classifier_is_there_once_it_is_asked_for_and_counts_from_then_on(
        self, folder: Path, picture: Image.Image
    ) -> None:
        explainer = Explainer.from_pretrained(folder, "cpu")
        [before] = explainer.explain(picture, "grad-cam", 1)
        model = explainer.model
        assert isinstance(model, ViTHybridForImageClassification)
        assert explainer.model is model
        assert explainer.explain(picture, "grad-cam", 1)[0].map == pytest.approx(before.map, abs=TOLERANCE)
        with torch.no_grad():
            model.classifier.weight.neg_()
        assert not np.allclose(explainer.explain(picture, "grad-cam", 1)[0].map, before.map)

    def test_it_is_checked_and_shown_like_the_classifier(self, folder: Path, picture: Image.Image) -> None:
        explainer = Explainer.from_pretrained(folder, "cpu")
        [found] = explainer.explain(picture)
        plain, pixels = explainer.hybrid, [found.pixels]
        checked, shown = check(plain, found, steps=3, draws=2), figure(plain, pixels)
        expected = check(explainer.model, found, steps=3, draws=2)
        assert checked.map.deletion == pytest.approx(expected.map.deletion, abs=TOLERANCE)
        assert checked.random.insertion == pytest.approx(expected.random.insertion, abs=TOLERANCE)
        for name, values in vars(figure(explainer.model, pixels)).items():
            assert getattr(shown, name) == pytest.approx(values, abs=1e-5), name

    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    def test_a_model_with_adapters_is_left_to_transformers(
        self, folder: Path, picture: Image.Image, tmp_path: Path
    ) -> None:
        peft = pytest.importorskip("peft")
        shutil.copytree(folder, tmp_path / "model")
        model = ViTHybridForImageClassification.from_pretrained(folder)
        torch.manual_seed(2)
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], init_lora_weights=False))
        adapted.peft_config["default"].base_model_name_or_path = str(folder)
        adapted.save_pretrained(tmp_path / "model")
        explainer = Explainer.from_pretrained(tmp_path / "model", "cpu")
        assert isinstance(explainer.hybrid, Classifier)
        [found] = explainer.explain(picture, "rollout")
        [plain] = Explainer.from_pretrained(folder, "cpu").explain(picture, "rollout")
        assert not np.allclose(found.map, plain.map, atol=1e-5)

    def test_pickled_weights_and_other_sizes_are_too(self, folder: Path, picture: Image.Image, tmp_path: Path) -> None:
        assert isinstance(Explainer.from_pretrained(folder, "cpu", image_size=(48, 48)).hybrid, Classifier)
        shutil.copytree(folder, tmp_path / "model")
        torch.save(load_file(folder / WEIGHTS), tmp_path / "model" / "pytorch_model.bin")
        (tmp_path / "model" / WEIGHTS).unlink()
        explainer = Explainer.from_pretrained(tmp_path / "model", "cpu")
        assert isinstance(explainer.hybrid, Classifier)
        [found] = explainer.explain(picture, "relevance", 0)
        [plain] = Explainer.from_pretrained(folder, "cpu").explain(picture, "relevance", 0)
        assert found.map == pytest.approx(plain.map, abs=TOLERANCE)


def test_the_command_does_without_transformers(folder: Path, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "x.png")
    code = f"""
import sys
import vit_hybrid
from typer.testing import CliRunner
from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.cli.main import app

def run(*words):
    done = CliRunner().invoke(app, ["explain", *words, "--output", {str(tmp_path / "out")!r}, "--device", "cpu"])
    assert done.exit_code == 0, done.output

picture = {str(tmp_path / "x.png")!r}
run(picture)
loaded = {{"torch._dynamo", "scipy", "sympy", "huggingface_hub"}} & {{*sys.modules}}
assert not loaded, loaded
for method in {METHODS!r}:
    run(picture, "--method", method, "--model", {str(folder)!r})
run(picture, "--check", "--html", "--model", {str(folder)!r})
run(picture, "--model-only", "--model", {str(folder)!r})
[found] = vit_hybrid.explain(picture)
assert found.map.any()
from vit_hybrid.serve.explaining import How, opened
served = opened({{"threads": 1, "name": BUILT_IN_MODEL, "device": "cpu", "runs": ("openvino", "int8")}})
[(is_answer, _)] = served.computed(None, [How(open(picture, "rb").read())])()
assert is_answer
assert "transformers" not in sys.modules
"""
    fresh_process.run(code)
    assert (tmp_path / "out" / "x-relevance.png").is_file()


def test_a_model_of_the_hub_is_read_alike(folder: Path, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "x.png")
    code = f"""
import sys
from vit_hybrid.cli.main import main
sys.argv[1:] = ["explain", {str(tmp_path / "x.png")!r}, "--model", "owner/tiny", "--output", {str(tmp_path)!r}]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(*({{"transformers"}} & {{*sys.modules}}))
"""
    with hub_server.LocalHub() as hub:
        hub.publish("owner/tiny", folder)
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        online = fresh_process.run(code, env={**settings, "HF_HUB_OFFLINE": "0"}).splitlines()
        asked = len(hub.requests)
        offline = fresh_process.run(code, env={**settings, "HF_HUB_OFFLINE": "1"}).splitlines()
        assert len(hub.requests) == asked > 0
    assert online == offline
    assert online[0] == str(tmp_path / "x.png")
    assert online[-1] == ""
    [found] = Explainer.from_pretrained(folder, "cpu").explain(picture)
    with np.load(tmp_path / "x-relevance.npz") as numbers:
        assert numbers["map"] == pytest.approx(found.map, abs=TOLERANCE)
