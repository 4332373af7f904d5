"""What a recipe's fields become of a model and of what trains it, without a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_hybrid import tiny_config, tiny_processor
from tiny_training import ARCHITECTURE, FIELDS, make_pictures
from transformers import EarlyStoppingCallback, PrinterCallback

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.checkpoints.files import ModelLoadError
from vit_hybrid.data import read_splits
from vit_hybrid.errors import EngineWarning
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.train import starting
from vit_hybrid.train.callbacks import Averaging, EpochStart, RankAllocation
from vit_hybrid.train.recipe import Recipe, RecipeError, build_recipe
from vit_hybrid.train.run import Run, TrainingError
from vit_hybrid.train.starting import prepared, starting_model, starting_preprocessing, starting_trainer

RATES = {"dropout": 0.1, "attention_dropout": 0.2, "drop_path": 0.3}


@pytest.mark.parametrize("is_saved", [False, True])
def test_each_rate_is_that_of_its_own_part(is_saved: bool, tiny_folder: Path, tmp_path: Path) -> None:
    start: dict[str, Any] = {"architecture": None, "model": str(tiny_folder)} if is_saved else {}
    recipe = build_recipe({**FIELDS, **start, **RATES})
    pictures = read_splits(make_pictures(tmp_path, 2, 1)).train
    model, *_ = starting_model(recipe, pictures, lambda line: None)
    layer = model.vit.encoder.layer[-1]
    assert model.vit.embeddings.dropout.p == layer.output.dropout.p == layer.attention.output.dropout.p == 0.1
    assert layer.attention.attention.dropout_prob == 0.2
    assert layer.drop_path_rate == pytest.approx(0.3)
    if is_saved:
        saved = ViTHybridForImageClassification.from_pretrained(tiny_folder).vit.state_dict()
        found = model.vit.state_dict()
        assert saved.keys() == found.keys()
        assert all(torch.equal(saved[name], found[name]) for name in saved)


def test_one_rate_alone_may_be_another(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = build_recipe({**FIELDS, "architecture": None, "model": str(tiny_folder), "dropout": 0.1})
    model, _, start = starting_model(recipe, read_splits(make_pictures(tmp_path, 2, 1)).train, lambda line: None)
    assert start == str(tiny_folder)
    layer = model.vit.encoder.layer[-1]
    assert (layer.output.dropout.p, layer.attention.attention.dropout_prob, layer.drop_path_rate) == (0.1, 0.0, 0.0)


def test_a_model_in_half_precision_is_trained_in_single(tiny_folder: Path, tmp_path: Path) -> None:
    model = ViTHybridForImageClassification.from_pretrained(tiny_folder).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    tiny_processor().save_pretrained(tmp_path / "half")
    recipe = build_recipe({**FIELDS, "architecture": None, "model": str(tmp_path / "half")})
    started, *_ = starting_model(recipe, read_splits(make_pictures(tmp_path / "data", 2, 1)).train, lambda line: None)
    assert {weight.dtype for weight in started.parameters()} == {torch.float32}


@pytest.mark.parametrize("is_saved", [False, True])
def test_preprocessing_is_that_of_the_model_at_the_recipes_size(is_saved: bool, tiny_folder: Path) -> None:
    start: dict[str, Any] = {"architecture": None, "model": str(tiny_folder)} if is_saved else {}
    found = starting_preprocessing(build_recipe({**FIELDS, **start, "image_size": 48}), lambda line: None)
    assert (found.crop_size, found.size) == ((48, 48), 48)


def test_preprocessing_of_an_architecture_is_for_its_channels() -> None:
    recipe = build_recipe({**FIELDS, "architecture": {**ARCHITECTURE, "num_channels": 1}})
    found = starting_preprocessing(recipe, lambda line: None)
    assert (found.image_mean, found.image_std, found.crop_size) == ((0.5,), (0.5,), (32, 32))


def test_a_classifier_of_labels_is_none_of_values() -> None:
    config = tiny_config(num_labels=1, id2label={0: "price"}, label2id={"price": 0})
    assert config.id2label == {0: "price"}
    model = ViTHybridForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    pictures: Any = SimpleNamespace(labels=("price",), problem_type="regression")
    starting.fit_labels(model, pictures)
    assert not model.classifier.weight.any()
    assert (model.config.problem_type, model.config.id2label) == ("regression", {0: "price"})


def test_a_classifier_of_the_same_labels_is_put_into_the_order_of_the_data() -> None:
    names = ["red", "blue", "green"]
    config = tiny_config(id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)})
    model = ViTHybridForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    torch.nn.init.normal_(model.classifier.bias)
    weight, bias = (parameter.detach().clone() for parameter in model.classifier.parameters())
    pictures: Any = SimpleNamespace(labels=("blue", "green", "red"), problem_type="single_label_classification")
    starting.fit_labels(model, pictures)
    assert torch.equal(model.classifier.weight, weight[[1, 2, 0]])
    assert torch.equal(model.classifier.bias, bias[[1, 2, 0]])
    assert config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert config.label2id == {"blue": 0, "green": 1, "red": 2}
    pictures.labels = ("green", "red", "blue")  # as a recipe may order them
    starting.fit_labels(model, pictures)
    assert torch.equal(model.classifier.weight, weight[[2, 0, 1]])
    assert config.id2label == {0: "green", 1: "red", 2: "blue"}
    starting.fit_labels(model, SimpleNamespace(labels=("blue", "green"), problem_type=pictures.problem_type))  # type: ignore[arg-type]
    assert not model.classifier.weight.any()
    assert (model.classifier.out_features, config.label2id) == (2, {"blue": 0, "green": 1})


def test_what_a_start_warns_of_is_told() -> None:
    said: list[str] = []
    with starting._telling(said.append):
        warnings.simplefilter("always", UserWarning)
        warnings.warn("a library's own affair", UserWarning, stacklevel=1)
        warnings.warn("the weights are random", EngineWarning, stacklevel=1)
    assert said == ["the weights are random"]


@pytest.mark.parametrize(("kind", "is_start"), [("own", True), ("timm", False)])
def test_only_an_own_model_may_lack_a_classifier(kind: str, is_start: bool) -> None:
    def classifier(size: Any, num_labels: int | None = None) -> Any:
        if num_labels is None:
            raise ModelLoadError("no classifier")
        return size, num_labels

    source: Any = SimpleNamespace(kind=kind, classifier=classifier)
    if is_start:
        assert starting._opened(source, (32, 32), 7) == ((32, 32), 7)
    else:
        with pytest.raises(ModelLoadError, match="no classifier"):
            starting._opened(source, (32, 32), 7)


class Enough(Exception):
    pass


def test_what_is_done_to_batches_is_what_the_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def take(**fields: Any) -> Any:
        given.update(fields)
        raise Enough

    fields: dict[str, Any] = {"color": 0.3, "randaugment_layers": 2, "randaugment_magnitude": 7.0, "erase": 0.4}
    fields |= {"erase_scale": (0.05, 0.2), "mixup": 0.6, "cutmix": 0.7}
    monkeypatch.setattr(starting, "BatchAugmentation", take)
    split = read_splits(make_pictures(tmp_path, 2, 1))
    run: Any = SimpleNamespace(recipe=Recipe(architecture=ARCHITECTURE, **fields))
    nothing: Any = None
    how = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "rescale_factor": 1 / 128}
    for is_normalized in (True, False):
        preprocessing = Preprocessing.from_dict({**how, "do_normalize": is_normalized, "do_rescale": is_normalized})
        with pytest.raises(Enough):
            starting_trainer(run, split, nothing, nothing, preprocessing, nothing, None)
        of_levels = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 1 / 128) if is_normalized else (0.0, 1.0, 1.0)
        assert (given["mean"], given["std"], given["rescale_factor"]) == of_levels
    assert {name: given[name] for name in fields} == fields
    assert (given["num_labels"], given["problem_type"]) == (3, "single_label_classification")


class Listing:
    """In the place of Trainer: what it was made of, and its callbacks."""

    is_fsdp_enabled = False
    args = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self, *given: Any) -> None:
        _, _, self.arguments, self.train_pictures, self.val_pictures, _, self.loss, self.output, callbacks = given
        self.callbacks = callbacks
        self.removed: list[Any] = []
        self.sampler = object()

    def add_callback(self, callback: Any) -> None:
        self.callbacks.append(callback)

    def remove_callback(self, callback: Any) -> None:
        self.removed.append(callback)


@pytest.fixture
def starting_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function from a recipe's fields to `Listing`; of the classes there are two, four and six pictures."""
    monkeypatch.setattr(starting, "HybridTrainer", Listing)
    monkeypatch.setattr(starting, "arguments_of", lambda *given: given[-1])
    folder = make_pictures(tmp_path / "data", 6, 1)
    for name, count in (("blue", 2), ("green", 4)):
        for number in range(count, 6):
            (folder / "train" / name / f"{number}.png").unlink()
    split = read_splits(folder)

    def start(kind: str = "bottleneck", channels: int = 3, **fields: Any) -> Any:
        recipe = build_recipe({**FIELDS, **fields})
        model = ViTHybridForImageClassification(tiny_config(image_size=(32, 48)))
        model.config.backbone_config.layer_type, model.config.num_channels = kind, channels
        run = Run("data", tmp_path / "out", recipe, callbacks=["one of the run's"])
        nothing: Any = None
        return starting_trainer(run, split, model, model, Preprocessing.from_dict({}), nothing, tmp_path / "before")

    return start


def test_what_is_minimized_is_what_the_recipe_says(starting_with: Any) -> None:
    loss = starting_with(loss="binary_cross_entropy", label_smoothing=0.2, class_weights="balanced").loss
    assert (loss.kind, loss.label_smoothing) == ("binary_cross_entropy", 0.2)
    assert loss.class_weights.tolist() == pytest.approx([2.0, 1.0, 2 / 3])  # of the training pictures
    assert starting_with().loss.class_weights is None


def test_pictures_are_cropped_by_the_runs_seed_to_what_the_model_takes(starting_with: Any) -> None:
    started = starting_with(seed=5)
    pictures = started.train_pictures
    assert (pictures.seed, pictures.image_size, pictures.channels, len(pictures)) == (5, (32, 48), 3, 12)
    assert starting_with(channels=1).train_pictures.channels == 1
    assert len(started.val_pictures) == 3
    assert started.arguments is False  # no pre-activation blocks
    assert starting_with("preactivation").arguments is True


def test_what_watches_a_run(starting_with: Any, tmp_path: Path) -> None:
    started = starting_with()
    assert (started.output, started.removed) == (tmp_path / "out", [PrinterCallback])
    first, *rest = started.callbacks
    assert first == "one of the run's"
    assert [type(each) for each in rest] == [EpochStart]
    callbacks = starting_with(early_stopping=4, adapter={"method": "lora"}).callbacks[1:]
    assert [type(each) for each in callbacks] == [EpochStart, RankAllocation, EarlyStoppingCallback]
    assert callbacks[-1].early_stopping_patience == 4
    with pytest.raises(RecipeError, match="ema does not go with adalora"):
        starting_with(ema=0.5, adapter={"method": "AdaLoRA"})


def test_an_average_of_weights_is_kept_where_they_are_whole(
    starting_with: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = starting_with(ema=0.25)
    assert started.average.decay == 0.25
    assert [type(each) for each in started.callbacks[1:]] == [EpochStart, Averaging]
    assert (started.callbacks[-1].trainer, started.callbacks[-1].checkpoint) == (started, tmp_path / "before")
    monkeypatch.setattr(Listing, "is_fsdp_enabled", True)
    starting_with(ema=0.25)  # on a CPU nothing is sharded
    monkeypatch.setattr(Listing, "args", SimpleNamespace(device=torch.device("cuda")))
    with pytest.raises(TrainingError, match=r"ema is not kept of sharded weights \(FSDP\); set ema to 0"):
        starting_with(ema=0.25)
    starting_with()
    monkeypatch.setattr(Listing, "is_fsdp_enabled", False)
    starting_with(ema=0.25)


@pytest.mark.parametrize("is_on", [False, True])
def test_a_model_is_prepared_as_the_recipe_says(is_on: bool) -> None:
    model = ViTHybridForImageClassification(tiny_config())
    fields = {"attention": "eager" if is_on else "sdpa", "gradient_checkpointing": is_on, "channels_last": is_on}
    assert prepared(model, build_recipe({**FIELDS, **fields}), True, 10) is model
    assert model.config._attn_implementation == fields["attention"]
    assert [layer.gradient_checkpointing for layer in model.vit.encoder.layer] == [is_on, is_on]
    kernel = model.vit.embeddings.patch_embeddings.backbone.bit.embedder.convolution.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last) == is_on


def test_layers_behind_frozen_ones_learn_with_gradient_checkpointing() -> None:
    """What reaches them asks for no gradient, which checkpoints of PyTorch's older kind take for none being needed."""
    fields = {"gradient_checkpointing": True, "freeze": ["backbone", "embeddings"]}
    model: Any = prepared(ViTHybridForImageClassification(tiny_config()), build_recipe({**FIELDS, **fields}), True, 10)
    model.train()(torch.zeros(1, 3, model.config.image_size, model.config.image_size)).logits.sum().backward()
    assert not any(weight.requires_grad for weight in model.vit.embeddings.parameters())
    assert all(weight.grad is not None for weight in model.vit.encoder.parameters())


@pytest.mark.parametrize(("given", "steps"), [({}, 60), ({"total_step": 90}, 90)])
def test_the_ranks_of_adalora_move_over_the_whole_run(given: dict[str, int], steps: int) -> None:
    pytest.importorskip("peft")
    adapter = {"method": "adalora", "tinit": 5, "tfinal": 5, **given}
    recipe = build_recipe({**FIELDS, "adapter": adapter})
    model: Any = prepared(ViTHybridForImageClassification(tiny_config()), recipe, True, 60)
    assert model.peft_config["default"].total_step == steps
    assert recipe.adapter == adapter  # as it is written beside the model
