"""What people do around the model: train with `Trainer`, save and load, adapt with PEFT, upload code with weights."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh_process import WITHOUT_THE_PACKAGE, run_forked
from safetensors.torch import load_file
from tiny_hybrid import IMAGE_SIZE, save_tiny_model, tiny_config

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification, ViTHybridImageProcessor, ViTHybridModel

SEED = 0
LABELS = 3
# One of each kind of state-dict key that transformers 4.49 wrote.
LEGACY_KEYS = {
    "vit.embeddings.cls_token",
    "vit.embeddings.position_embeddings",
    "vit.embeddings.patch_embeddings.projection.weight",
    "vit.embeddings.patch_embeddings.backbone.bit.embedder.convolution.weight",
    "vit.embeddings.patch_embeddings.backbone.bit.encoder.stages.0.layers.0.downsample.conv.weight",
    "vit.embeddings.patch_embeddings.backbone.bit.encoder.stages.1.layers.0.norm3.bias",
    "vit.encoder.layer.1.attention.attention.query.weight",
    "vit.encoder.layer.1.attention.output.dense.bias",
    "vit.encoder.layer.0.layernorm_before.weight",
    "vit.layernorm.bias",
    "classifier.weight",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def model() -> ViTHybridForImageClassification:
    torch.manual_seed(SEED)
    return ViTHybridForImageClassification(tiny_config()).eval()


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(SEED))


def logits_of(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(pixel_values=pixels).logits


class RandomPictures(torch.utils.data.Dataset):
    """Noise with labels, in the form `Trainer` collates."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        return {
            "pixel_values": torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=generator),
            "labels": index % LABELS,
        }


def test_trainer_trains_saves_and_resumes(
    model: ViTHybridForImageClassification, pixels: torch.Tensor, tmp_path: Path
) -> None:
    from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

    def trainer(of: ViTHybridForImageClassification, steps: int) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "run"),
            use_cpu=True,
            max_steps=steps,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            save_steps=2,
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=SEED,
        )
        return Trainer(
            model=of,
            args=arguments,
            train_dataset=RandomPictures(),
            eval_dataset=RandomPictures(),
            processing_class=ViTHybridImageProcessor(),
        )

    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = trainer(model, steps=2)
    done = first.train()
    assert done.global_step == 2
    assert done.training_loss > 0
    unchanged = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    assert not unchanged  # the gradient reaches every weight, the backbone's too
    assert set(first.evaluate()) >= {"eval_loss"}
    assert first.predict(RandomPictures()).predictions.shape == (4, LABELS)

    first.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "preprocessor_config.json").exists()
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert type(loaded) is ViTHybridForImageClassification
    assert torch.equal(logits_of(loaded, pixels), logits_of(model, pixels))

    torch.manual_seed(SEED)
    resumed = trainer(ViTHybridForImageClassification(tiny_config()), steps=3)
    assert resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2")).global_step == 3


def test_saved_weights_are_safetensors_under_the_legacy_keys(
    model: ViTHybridForImageClassification, pixels: torch.Tensor, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    saved = load_file(tmp_path / "model.safetensors")
    assert set(saved) >= LEGACY_KEYS
    assert set(saved) == set(model.state_dict())
    loaded, report = ViTHybridForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(logits_of(loaded, pixels), logits_of(model, pixels))


def test_base_model_and_classifier_load_each_others_files(
    model: ViTHybridForImageClassification, pixels: torch.Tensor, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "classifier")
    base = ViTHybridModel.from_pretrained(tmp_path / "classifier", add_pooling_layer=False).eval()
    with torch.inference_mode():
        expected = model.vit(pixels).last_hidden_state
        assert torch.equal(base(pixels).last_hidden_state, expected)
    base.save_pretrained(tmp_path / "base")
    again, report = ViTHybridForImageClassification.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert report["missing_keys"] == {"classifier.weight", "classifier.bias"}
    with torch.inference_mode():
        assert torch.equal(again.eval().vit(pixels).last_hidden_state, expected)


@pytest.mark.parametrize("sharded", [False, True])
def test_checkpoints_that_have_only_bin_files(
    model: ViTHybridForImageClassification, pixels: torch.Tensor, tmp_path: Path, sharded: bool
) -> None:
    from transformers import AutoModelForImageClassification

    model.config.save_pretrained(tmp_path)
    state = model.state_dict()
    if sharded:
        files = {name: f"pytorch_model-{1 + index % 2:05}-of-00002.bin" for index, name in enumerate(state)}
        for file in set(files.values()):
            torch.save({name: state[name] for name in state if files[name] == file}, tmp_path / file)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    else:
        torch.save(state, tmp_path / "pytorch_model.bin")
    for auto in (ViTHybridForImageClassification, AutoModelForImageClassification):
        loaded = auto.from_pretrained(tmp_path)
        assert torch.equal(logits_of(loaded, pixels), logits_of(model, pixels))


# PEFT 0.21 reads a property that transformers 5.23 has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_on_query_and_value(model: ViTHybridForImageClassification, pixels: torch.Tensor, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="adapters need the extra `peft`")
    from transformers import AutoModelForImageClassification

    model.save_pretrained(tmp_path / "base")
    plain = logits_of(model, pixels)
    base = ViTHybridForImageClassification.from_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(
        r=2, lora_alpha=8, target_modules=["query", "value"], modules_to_save=["classifier"], init_lora_weights=False
    )
    adapted = peft.get_peft_model(base, settings)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len([name for name in trained if "lora_" in name]) == 2 * 2 * model.config.num_hidden_layers
    assert all("attention.attention.query" in n or "attention.attention.value" in n for n in trained if "lora_" in n)
    assert [name for name in trained if "classifier" in name]

    adapted(pixel_values=pixels, labels=torch.tensor([0, 1])).loss.backward()
    assert all(parameter.grad is not None for parameter in adapted.parameters() if parameter.requires_grad)
    expected = logits_of(adapted, pixels)
    assert not torch.allclose(expected, plain)
    adapted.save_pretrained(tmp_path / "adapter")

    by_peft = peft.PeftModel.from_pretrained(
        ViTHybridForImageClassification.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    assert torch.equal(logits_of(by_peft, pixels), expected)
    by_method = ViTHybridForImageClassification.from_pretrained(tmp_path / "base")
    by_method.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits_of(by_method, pixels), expected)
    by_auto = AutoModelForImageClassification.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits_of(by_auto, pixels), expected)
    assert torch.allclose(logits_of(by_peft.merge_and_unload(), pixels), expected, atol=1e-5)


def test_adapter_added_by_the_model_itself(
    model: ViTHybridForImageClassification, pixels: torch.Tensor, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="adapters need the extra `peft`")
    model.save_pretrained(tmp_path / "base")
    plain = logits_of(model, pixels)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False))
    expected = logits_of(model, pixels)
    assert not torch.allclose(expected, plain)
    model.save_pretrained(tmp_path / "adapter")
    again = ViTHybridForImageClassification.from_pretrained(tmp_path / "base")
    again.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits_of(again, pixels), expected)
    again.disable_adapters()
    assert torch.equal(logits_of(again, pixels), plain)


# Saves a folder with its code in it; ours must not be told in this process, where `_auto_class` would stay set.
UPLOAD = textwrap.dedent(
    """
    import os, sys
    from vit_hybrid import (
        ViTHybridConfig, ViTHybridForImageClassification, ViTHybridImageProcessor, ViTHybridModel
    )
    ViTHybridConfig.register_for_auto_class()
    ViTHybridModel.register_for_auto_class("AutoModel")
    ViTHybridForImageClassification.register_for_auto_class("AutoModelForImageClassification")
    ViTHybridImageProcessor.register_for_auto_class()
    model = ViTHybridForImageClassification.from_pretrained(os.environ["FOLDER"])
    model.save_pretrained(os.environ["UPLOADED"])
    ViTHybridImageProcessor.from_pretrained(os.environ["FOLDER"]).save_pretrained(os.environ["UPLOADED"])
    """
)
# Loads it where vit_hybrid is not installed.
DOWNLOAD = WITHOUT_THE_PACKAGE + textwrap.dedent(
    """
    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
    folder = os.environ["UPLOADED"]
    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
    else:
        raise AssertionError("code of a stranger ran unasked")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    for thing in (config, model, processor):
        assert type(thing).__name__.startswith("ViTHybrid")
        assert type(thing).__module__.startswith("transformers_modules."), type(thing)
    image = Image.new("RGB", (50, 40), (200, 30, 60))
    rows = pipeline("image-classification", model=folder, trust_remote_code=True)(image)
    assert len(rows) == 3, rows
    pixels = processor(image, return_tensors="pt")
    with torch.inference_mode():
        print("logits", model.eval()(**pixels).logits[0].tolist())
    model.save_pretrained(os.environ["UPLOADED"] + "-again")
    assert "vit_hybrid" not in sys.modules
    """
)


@pytest.fixture(scope="module")
def uploaded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("uploaded") / "tiny"
    run_forked(UPLOAD, FOLDER=str(folder), UPLOADED=str(target))
    return target


def test_an_upload_carries_its_code(uploaded: Path) -> None:
    config = json.loads((uploaded / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration.ViTHybridConfig",
        "AutoModelForImageClassification": "modeling.ViTHybridForImageClassification",
    }
    processor = json.loads((uploaded / "preprocessor_config.json").read_text())
    assert processor["auto_map"] == {"AutoImageProcessor": "image_processing.ViTHybridImageProcessor"}
    files = {path.name for path in uploaded.glob("*.py")}
    assert files == {
        "presets.py",
        "geometry.py",
        "configuration.py",
        "backbone.py",
        "packing.py",
        "positions.py",
        "modeling.py",
        "image_processing.py",
        "levels.py",
        "preprocessing.py",
    }


def test_an_upload_loads_where_the_package_is_absent(uploaded: Path, tmp_path: Path) -> None:
    caches = {"HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "code")}
    printed = run_forked(DOWNLOAD, UPLOADED=str(uploaded), **caches)
    [line] = [line for line in printed.splitlines() if line.startswith("logits ")]

    from PIL import Image

    model = ViTHybridForImageClassification.from_pretrained(uploaded)
    processor = ViTHybridImageProcessor.from_pretrained(uploaded)
    pixels = processor(Image.new("RGB", (50, 40), (200, 30, 60)), return_tensors="pt")["pixel_values"]
    expected = logits_of(model, pixels)[0]
    torch.testing.assert_close(torch.tensor(json.loads(line.removeprefix("logits "))), expected)


@pytest.mark.parametrize("trust", [None, False, True])
def test_an_upload_loads_as_our_classes_where_the_package_is(uploaded: Path, trust: bool | None) -> None:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

    arguments = {} if trust is None else {"trust_remote_code": trust}
    assert type(AutoConfig.from_pretrained(uploaded, **arguments)) is ViTHybridConfig
    assert type(AutoModel.from_pretrained(uploaded, **arguments)) is ViTHybridModel
    loaded = AutoModelForImageClassification.from_pretrained(uploaded, **arguments)
    assert type(loaded) is ViTHybridForImageClassification
    assert type(AutoImageProcessor.from_pretrained(uploaded, **arguments)) is ViTHybridImageProcessor
