"""Models by hub id: the real `huggingface_hub` client against a hub on this machine."""

import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from fresh_process import WITHOUT_THE_PACKAGE, run_forked
from hub_server import TOKEN, USER, LocalHub
from tiny_hybrid import save_tiny_model

from vit_hybrid.outputs.confidence import ARRAYS_FILE, CONFIDENCE_FILE
from vit_hybrid.train.checkpointing import CONTENTS_FILE
from vit_hybrid.train.resuming import DATA_FILE

MODEL = "someone/tiny-hybrid"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def hub(folder: Path) -> Iterator[LocalHub]:
    with LocalHub() as running:
        running.publish(MODEL, folder)
        yield running


def online(hub: LocalHub, home: Path) -> dict[str, str]:
    """The environment of a program that has the hub and an empty (or its own earlier) cache."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": TOKEN,
    }


LOAD = textwrap.dedent(
    f"""
    import numpy as np
    from PIL import Image
    import vit_hybrid
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
    assert type(AutoConfig.from_pretrained("{MODEL}")) is vit_hybrid.ViTHybridConfig
    assert type(AutoModel.from_pretrained("{MODEL}")) is vit_hybrid.ViTHybridModel
    model = AutoModelForImageClassification.from_pretrained("{MODEL}")
    assert type(model) is vit_hybrid.ViTHybridForImageClassification
    assert type(AutoImageProcessor.from_pretrained("{MODEL}")) is vit_hybrid.ViTHybridImageProcessor
    ours = vit_hybrid.ViTHybridForImageClassification.from_pretrained("{MODEL}")
    assert all((a == b).all() for a, b in zip(ours.parameters(), model.parameters(), strict=True))
    assert vit_hybrid.ViTHybridImageProcessor.from_pretrained("{MODEL}").crop_size["height"] == 32
    image = Image.fromarray(np.full((40, 50, 3), 90, np.uint8))
    assert len(pipeline("image-classification", model="{MODEL}")(image)) == 3
    assert len(pipeline("image-feature-extraction", model="{MODEL}")(image)) == 1
    print("loaded")
    """
)


def test_loads_by_id_then_offline_from_the_cache(hub: LocalHub, tmp_path: Path) -> None:
    assert run_forked(LOAD, **online(hub, tmp_path)).splitlines()[-1] == "loaded"
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        downloads = [line for line in hub.requests if line.startswith("GET") and line.endswith(f"/{name}")]
        assert len(downloads) == 1, downloads

    asked = len(hub.requests)
    offline = {**online(hub, tmp_path), "HF_HUB_OFFLINE": "1"}
    assert run_forked(LOAD, **offline).splitlines()[-1] == "loaded"
    assert len(hub.requests) == asked, hub.requests[asked:]


ATTEMPTS = textwrap.dedent(
    """
    import os, vit_hybrid
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline
    name, expected = os.environ["NAME"], os.environ["EXPECTED"]
    attempts = {
        "our config": vit_hybrid.ViTHybridConfig.from_pretrained,
        "our model": vit_hybrid.ViTHybridForImageClassification.from_pretrained,
        "our processor": vit_hybrid.ViTHybridImageProcessor.from_pretrained,
        "config": AutoConfig.from_pretrained,
        "model": AutoModelForImageClassification.from_pretrained,
        "processor": AutoImageProcessor.from_pretrained,
        "pipeline": lambda name: pipeline("image-classification", model=name),
    }
    for kind, attempt in attempts.items():
        try:
            attempt(name)
        except OSError as error:
            assert expected in str(error), (kind, error)
        else:
            raise AssertionError(f"{kind} of {name} was loaded")
    """
)


def test_a_wrong_id_is_named(hub: LocalHub, tmp_path: Path) -> None:
    wrong = "someone/no-such-hybrid"
    run_forked(ATTEMPTS, **online(hub, tmp_path), NAME=wrong, EXPECTED=wrong)
    assert any(f"/{wrong}" in line for line in hub.requests)


def test_offline_what_was_never_downloaded_is_missing(hub: LocalHub, tmp_path: Path) -> None:
    offline = {**online(hub, tmp_path), "HF_HUB_OFFLINE": "1"}
    run_forked(ATTEMPTS, **offline, NAME=MODEL, EXPECTED="")
    assert not hub.requests


def test_a_wrong_revision_is_refused(hub: LocalHub, tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        from vit_hybrid import ViTHybridForImageClassification
        try:
            ViTHybridForImageClassification.from_pretrained("{MODEL}", revision="v9")
        except OSError as error:
            assert "v9" in str(error), error
        else:
            raise AssertionError("a revision that does not exist was loaded")
        """
    )
    run_forked(code, **online(hub, tmp_path))


def test_push_to_hub_and_back(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        import torch, vit_hybrid
        from transformers import AutoImageProcessor, AutoModelForImageClassification
        model = vit_hybrid.ViTHybridForImageClassification.from_pretrained({str(folder)!r})
        torch.nn.init.constant_(model.classifier.bias, 7.0)
        model.push_to_hub("{USER}/pushed")
        vit_hybrid.ViTHybridImageProcessor.from_pretrained({str(folder)!r}).push_to_hub("{USER}/pushed")
        model.config.push_to_hub("{USER}/only-config")
        again = AutoModelForImageClassification.from_pretrained("{USER}/pushed")
        assert type(again) is vit_hybrid.ViTHybridForImageClassification
        assert all((a == b).all() for a, b in zip(again.parameters(), model.parameters(), strict=True))
        assert AutoImageProcessor.from_pretrained("{USER}/pushed").crop_size["height"] == 32
        """
    )
    run_forked(code, **online(hub, tmp_path))
    _, files = hub.repositories[f"{USER}/pushed"].commits[-1]
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= set(files)
    assert "config.json" in hub.repositories[f"{USER}/only-config"].commits[-1][1]


def test_pushing_without_a_token_is_refused(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        from huggingface_hub.errors import HfHubHTTPError
        from vit_hybrid import ViTHybridConfig
        try:
            ViTHybridConfig.from_pretrained({str(folder)!r}).push_to_hub("{USER}/pushed")
        except HfHubHTTPError as error:
            assert error.response.status_code == 401
        else:
            raise AssertionError("pushed without a token")
        """
    )
    run_forked(code, **{**online(hub, tmp_path), "HF_TOKEN": ""})
    assert f"{USER}/pushed" not in hub.repositories


# Both print the maps of the same picture, as whole numbers of the bits of each.
MAPS = textwrap.dedent(
    """
    def bits(backbone):
        import torch
        pixels = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return [given.view(torch.int32).flatten().tolist() for given in backbone.eval()(pixels).feature_maps]
    """
)
PUSH_BACKBONE = MAPS + textwrap.dedent(
    f"""
    import os
    from vit_hybrid import ViTHybridBackbone, ViTHybridBackboneConfig
    ViTHybridBackboneConfig.register_for_auto_class()
    ViTHybridBackbone.register_for_auto_class("AutoBackbone")
    options = {{"out_features": ["stage1", "layer2"], "reshape_hidden_states": False}}
    backbone = ViTHybridBackbone.from_pretrained(os.environ["FOLDER"], **options)
    backbone.push_to_hub("{USER}/backbone")
    print("maps", bits(backbone))
    """
)
LOAD_BACKBONE = MAPS + textwrap.dedent(
    f"""
    import os
    from transformers import AutoBackbone, AutoConfig
    name, module = "{USER}/backbone", os.environ["MODULE"]
    for asked in ({{}}, {{"trust_remote_code": False}}, {{"trust_remote_code": True}}):
        if asked.get("trust_remote_code") or module.startswith("vit_hybrid"):
            config = AutoConfig.from_pretrained(name, **asked)
            backbone = AutoBackbone.from_pretrained(name, **asked)
            for thing in (config, backbone, backbone.config.hybrid_config):
                assert type(thing).__module__.startswith(module), type(thing)
            assert backbone.out_features == ["stage1", "layer2"]
            print("maps", bits(backbone))
    """
)


def test_a_backbone_comes_back_whole_with_and_without_trust(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    def maps(code: str, **environment: str) -> list[str]:
        printed = run_forked(code, **online(hub, tmp_path), HF_MODULES_CACHE=str(tmp_path / "code"), **environment)
        return [line for line in printed.splitlines() if line.startswith("maps ")]

    [pushed] = maps(PUSH_BACKBONE, FOLDER=str(folder))
    _, files = hub.repositories[f"{USER}/backbone"].commits[-1]
    modules = ("presets", "geometry", "configuration", "positions", "backbone", "packing", "modeling")
    modules += ("feature_configuration", "feature_backbone")
    assert {name for name in files if name.endswith(".py")} == {f"{name}.py" for name in modules}
    assert maps("import vit_hybrid\n" + LOAD_BACKBONE, MODULE="vit_hybrid.model.") == [pushed] * 3
    assert maps(WITHOUT_THE_PACKAGE + LOAD_BACKBONE, MODULE="transformers_modules.") == [pushed]


def test_auto_backbone_makes_one_of_a_classifier_on_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        import vit_hybrid
        from transformers import AutoBackbone
        options = {{"out_features": ["stem", "layer1"], "reshape_hidden_states": False}}
        backbone, report = AutoBackbone.from_pretrained("{MODEL}", output_loading_info=True, **options)
        assert type(backbone) is vit_hybrid.ViTHybridBackbone
        assert not any(report.values()), report
        assert backbone.out_features == ["stem", "layer1"] and not backbone.config.reshape_hidden_states
        print("loaded")
        """
    )
    assert run_forked(code, **online(hub, tmp_path)).splitlines()[-1] == "loaded"


PUSH_FOLDER = textwrap.dedent(
    f"""
    import os
    from huggingface_hub import create_repo, upload_folder
    from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification, ViTHybridImageProcessor
    ViTHybridConfig.register_for_auto_class()
    ViTHybridForImageClassification.register_for_auto_class("AutoModelForImageClassification")
    ViTHybridImageProcessor.register_for_auto_class()
    folder = os.environ["FOLDER"]
    ViTHybridForImageClassification.from_pretrained(folder).save_pretrained(folder)
    ViTHybridImageProcessor.from_pretrained(folder).save_pretrained(folder)
    create_repo("{USER}/whole")
    upload_folder(repo_id="{USER}/whole", folder_path=folder)
    """
)
LOAD_FOLDER = textwrap.dedent(
    f"""
    import sys
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
    from PIL import Image
    name = "{USER}/whole"
    for asked in ({{}}, {{"trust_remote_code": True}})["vit_hybrid" not in sys.modules :]:
        model, report = AutoModelForImageClassification.from_pretrained(name, output_loading_info=True, **asked)
        assert not any(report.values()), report
        assert AutoImageProcessor.from_pretrained(name, **asked).crop_size["height"] == 32
        assert len(pipeline("image-classification", model=name, **asked)(Image.new("RGB", (40, 50)))) == 3
    """
)


def test_a_folder_with_all_that_lies_beside_the_weights_comes_back_whole(
    hub: LocalHub, folder: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    beside = {"README.md": b"# A model\n", "metrics.json": b"{}\n", "training_curve.png": b"\x89PNG"}
    beside |= dict.fromkeys((CONFIDENCE_FILE, CONTENTS_FILE, DATA_FILE), b"{}") | {ARRAYS_FILE: b"arrays"}
    for name, content in beside.items():
        (whole / name).write_bytes(content)
    environment = {**online(hub, tmp_path), "HF_MODULES_CACHE": str(tmp_path / "code")}
    run_forked(PUSH_FOLDER, **environment, FOLDER=str(whole))
    _, files = hub.repositories[f"{USER}/whole"].commits[-1]
    assert files == {path.name: path.read_bytes() for path in whole.iterdir()}
    assert beside.items() <= files.items()
    run_forked("import vit_hybrid\n" + LOAD_FOLDER, **environment)
    run_forked(WITHOUT_THE_PACKAGE + LOAD_FOLDER, **environment)
