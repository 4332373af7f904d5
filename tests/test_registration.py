"""The Auto classes and pipelines know `vit-hybrid` after `import vit_hybrid`, whatever is imported when."""

import copy
import json
import pickle
import sys
import textwrap
import threading
import warnings
from collections import OrderedDict
from importlib.machinery import BuiltinImporter, ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest
from fresh_process import run_forked
from tiny_hybrid import save_tiny_model, tiny_config

import vit_hybrid
from vit_hybrid import registration

FAMILY = sorted(registration.FAMILY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


# What must hold after any order of imports. `FOLDER` comes from the environment of the interpreter.
CHECK = textwrap.dedent(
    """
    import os
    import numpy as np
    from PIL import Image
    import vit_hybrid
    from transformers import (
        AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoProcessor, pipeline
    )
    folder = os.environ["FOLDER"]
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is vit_hybrid.ViTHybridConfig, type(config)
    assert type(AutoConfig.for_model("vit-hybrid")) is vit_hybrid.ViTHybridConfig
    assert type(AutoModel.from_config(config)) is vit_hybrid.ViTHybridModel
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert type(model) is vit_hybrid.ViTHybridForImageClassification, type(model)
    assert type(AutoImageProcessor.from_pretrained(folder)) is vit_hybrid.ViTHybridImageProcessor
    assert type(AutoProcessor.from_pretrained(folder)) is vit_hybrid.ViTHybridImageProcessor
    image = Image.fromarray(np.arange(40 * 50 * 3, dtype=np.uint32).reshape(40, 50, 3).astype(np.uint8))
    ranked = pipeline("image-classification", model=folder)(image)
    assert len(ranked) == 3 and abs(sum(row["score"] for row in ranked) - 1) < 1e-5, ranked
    features = np.asarray(pipeline("image-feature-extraction", model=model.vit, image_processor=folder)(image))
    assert features.shape == (1, 1 + model.vit.embeddings.patch_embeddings.num_patches, 16), features.shape
    """
)

# Name -> imports that come first. Torch is loaded already, transformers and vit_hybrid are not.
ORDERS = {
    "ours first": "import vit_hybrid",
    "transformers first": "import transformers",
    "ViTModel first": "from transformers import ViTModel",
    "pipeline first": "from transformers import pipeline",
    "Trainer first": "from transformers import Trainer",
    "our model first": "from vit_hybrid import ViTHybridForImageClassification",
    "our processor first": "from vit_hybrid import ViTHybridImageProcessor",
    "ours, then ViTModel": "import vit_hybrid\nfrom transformers import ViTModel",
    "ours, then pipeline": "import vit_hybrid\nfrom transformers import pipeline",
    "ours, then Trainer": "import vit_hybrid\nfrom transformers import Trainer",
    "ours, then modeling_layers": "import vit_hybrid\nimport transformers.modeling_layers",
    "ours in several threads": """
        import importlib, threading
        names = ["vit_hybrid", "transformers.models.auto.modeling_auto", "transformers.pipelines", "transformers",
                 "transformers.models.vit.modeling_vit", "vit_hybrid", "transformers.models.auto.image_processing_auto"]
        start, errors = threading.Barrier(len(names)), []
        def load(name):
            start.wait()
            try:
                importlib.import_module(name)
            except BaseException as error:
                errors.append(error)
        threads = [threading.Thread(target=load, args=(name,)) for name in names]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not errors, errors
    """,
    "ours reloaded": """
        import importlib, sys, vit_hybrid
        import transformers.models.auto.modeling_auto, vit_hybrid.registration
        importlib.reload(vit_hybrid.registration)
        importlib.reload(vit_hybrid)
        for name in [name for name in sys.modules if name.partition(".")[0] == "vit_hybrid"]:
            del sys.modules[name]
        import vit_hybrid
        assert sum(type(finder).__module__ == "vit_hybrid.registration" for finder in sys.meta_path) == 1
    """,
}

# Imports vit_hybrid when transformers looks for the module TRIGGER, which is while it imports HALF_LOADED.
IN_THE_MIDDLE = textwrap.dedent(
    """
    import sys
    class Middle:
        def find_spec(self, name, path=None, target=None):
            if name == TRIGGER and self in sys.meta_path:
                sys.meta_path.remove(self)
                assert sys.modules[HALF_LOADED].__spec__._initializing
                import vit_hybrid
                vit_hybrid.restore_transformers_names()
    sys.meta_path.insert(0, Middle())
    """
)


def run_in_order(folder: Path, order: str) -> None:
    run_forked(textwrap.dedent(order) + CHECK, FOLDER=str(folder))


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_imports(folder: Path, order: str) -> None:
    run_in_order(folder, ORDERS[order])


@pytest.mark.parametrize(
    ("half_loaded", "trigger", "then"),
    [
        ("transformers", "transformers.dependency_versions_check", "import transformers"),
        (
            "transformers.models.auto.configuration_auto",
            "transformers.dynamic_module_utils",
            "from transformers.models.auto import configuration_auto\n"
            "assert 'vit-hybrid' in configuration_auto.CONFIG_MAPPING",
        ),
        (
            "transformers.models.auto.modeling_auto",
            "transformers.models.auto.auto_factory",
            "from transformers.models.auto import modeling_auto\n"
            "assert 'vit-hybrid' in modeling_auto.MODEL_MAPPING_NAMES",
        ),
    ],
)
def test_imported_while_transformers_is_half_loaded(folder: Path, half_loaded: str, trigger: str, then: str) -> None:
    setting = f"TRIGGER, HALF_LOADED = {trigger!r}, {half_loaded!r}\n"
    middle = "assert not any(type(finder).__name__ == 'Middle' for finder in sys.meta_path)"  # the trigger was pulled
    names = f"from transformers import {', '.join(FAMILY)}"
    run_in_order(folder, "\n".join((setting, IN_THE_MIDDLE, then, middle, names, "")))


def test_without_the_import_the_model_type_is_unknown() -> None:
    run_forked(
        textwrap.dedent(
            """
            from transformers import AutoConfig
            try:
                AutoConfig.for_model("vit-hybrid")
            except ValueError as error:
                assert "Unrecognized model identifier: vit-hybrid" in str(error)
            else:
                raise AssertionError("transformers knows vit-hybrid by itself: these tests prove nothing")
            """
        )
    )


def test_a_reloaded_registry_is_filled_again() -> None:
    run_forked(
        textwrap.dedent(
            """
            import importlib, vit_hybrid
            from transformers.models.auto import modeling_auto
            old = modeling_auto.MODEL_MAPPING_NAMES
            importlib.reload(modeling_auto)
            assert modeling_auto.MODEL_MAPPING_NAMES is not old
            assert modeling_auto.MODEL_MAPPING[vit_hybrid.ViTHybridConfig] is vit_hybrid.ViTHybridModel
            assert type(modeling_auto.__loader__) is importlib.machinery.SourceFileLoader  # no trace of the hook
            assert modeling_auto.__spec__.loader is modeling_auto.__loader__
            """
        )
    )


@pytest.mark.parametrize("loaded", ["before", "after"])
def test_a_registry_that_moved_is_reported(loaded: str) -> None:
    change = """
        import sys, warnings
        from transformers.models.auto import modeling_auto
        del modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    """
    register = """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import vit_hybrid
            vit_hybrid.registration.register()
        [text] = {str(warning.message) for warning in caught}
        assert all(warning.category is RuntimeWarning for warning in caught)
        import transformers
        table = "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"
        for part in (transformers.__version__, table, "transformers >=5.18,<6"):
            assert part in text, text
        # The rest of the registry is in order, and the classes can be used directly.
        assert modeling_auto.MODEL_MAPPING[vit_hybrid.ViTHybridConfig] is vit_hybrid.ViTHybridModel
    """
    if loaded == "after":
        register = "\n        import vit_hybrid.registration" + register
        change = "\n        import vit_hybrid" + change
    run_forked(textwrap.dedent(change + register))


@pytest.mark.parametrize("place", ["vit_hybrid", "deprecated/vit_hybrid"])
def test_names_that_transformers_has_itself_are_not_put_back(place: str, tmp_path: Path) -> None:
    """Neither where it has the folder of today, nor where it has that of its last release with the model."""
    (tmp_path / place).mkdir(parents=True)
    run_forked(
        textwrap.dedent(
            """
            import os, warnings
            import transformers.models
            transformers.models.__path__.append(os.environ["NATIVE"])
            before = {name: [*module.__all__] for name, module in
                      (("transformers", transformers), ("models", transformers.models))}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                import vit_hybrid
                from transformers.models.auto import configuration_auto
                vit_hybrid.restore_transformers_names()
            assert {warning.category for warning in caught} == {RuntimeWarning}, caught
            assert "has a vit-hybrid of its own" in str(caught[0].message), caught[0].message
            assert "vit-hybrid" not in configuration_auto.CONFIG_MAPPING_NAMES
            assert transformers.__all__ == before["transformers"]
            assert transformers.models.__all__ == before["models"]
            """
        ),
        NATIVE=str(tmp_path),
    )


def test_a_family_of_transformers_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "vit_hybrid").mkdir()
    (tmp_path / "vit_hybrid" / "__init__.py").write_text("class ViTHybridConfig: pass\n")
    run_forked(
        textwrap.dedent(
            """
            import os, warnings
            import transformers.models
            from transformers.models.auto import configuration_auto
            transformers.models.__path__.append(os.environ["NATIVE"])
            configuration_auto.CONFIG_MAPPING_NAMES["vit-hybrid"] = "ViTHybridConfig"
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                import vit_hybrid
            assert {warning.category for warning in caught} == {RuntimeWarning}
            assert "has a vit-hybrid of its own" in str(caught[0].message), caught[0].message
            assert configuration_auto.CONFIG_MAPPING["vit-hybrid"].__module__ == "transformers.models.vit_hybrid"
            """
        ),
        NATIVE=str(tmp_path),
    )


def test_a_class_the_program_registered_wins() -> None:
    run_forked(
        textwrap.dedent(
            """
            import vit_hybrid
            from transformers import AutoConfig, AutoModel
            class Config(vit_hybrid.ViTHybridConfig):
                pass
            AutoConfig.register("vit-hybrid", Config, exist_ok=True)
            assert type(AutoConfig.for_model("vit-hybrid")) is Config
            """
        )
    )


RESTORED = textwrap.dedent(
    """
    import pickle, sys, vit_hybrid
    from transformers import (
        ViTHybridConfig, ViTHybridForImageClassification, ViTHybridImageProcessor, ViTHybridModel,
        ViTHybridPreTrainedModel,
    )
    import transformers
    family = {name: getattr(vit_hybrid, name) for name in vit_hybrid.registration.FAMILY}
    assert set(family) <= set(dir(transformers))
    names = [*transformers.__all__, *transformers.models.__all__]
    assert [names.count(name) for name in (*family, "vit_hybrid", "deprecated")] == [1] * 7
    assert "__all__" in dir(transformers.models.vit_hybrid)
    for name, value in family.items():
        assert getattr(transformers, name) is value and globals()[name] is value
        assert getattr(transformers.models.vit_hybrid, name) is value
        assert getattr(transformers.models.deprecated.vit_hybrid, name) is value
        assert name in dir(transformers.models.vit_hybrid)
    assert sorted(transformers.models.vit_hybrid.__all__) == sorted(family)
    assert {*vit_hybrid.registration.LEGACY_MODULES} <= set(dir(transformers.models.vit_hybrid))
    for name in vit_hybrid.registration.BACKBONE_FAMILY:  # which transformers 4 had not
        assert name not in dir(transformers.models.vit_hybrid)
        assert getattr(transformers.models.vit_hybrid, name) is getattr(vit_hybrid, name)
    for package in ("transformers.models.vit_hybrid", "transformers.models.deprecated.vit_hybrid"):
        for old, new in vit_hybrid.registration.LEGACY_MODULES.items():
            scope = {}
            exec(f"import {package}.{old} as module\\nfrom {package} import {old} as again", scope)
            assert scope["module"] is scope["again"] is sys.modules[f"vit_hybrid.{new}"]
    # What a pickle written under transformers 4 says.
    reference = b"ctransformers.models.deprecated.vit_hybrid.modeling_vit_hybrid\\nViTHybridModel\\n."
    assert pickle.loads(reference) is family["ViTHybridModel"]
    try:
        from transformers.models.vit_hybrid import ViTHybridForSegmentation
    except ImportError as error:
        assert "ViTHybridForSegmentation" in str(error)
    else:
        raise AssertionError("a class that never was can be imported")
    """
)


@pytest.mark.parametrize(
    "order",
    [
        "import sys, vit_hybrid\nvit_hybrid.restore_transformers_names()\nassert 'transformers' not in sys.modules",
        "import transformers.models.deprecated, vit_hybrid\nvit_hybrid.restore_transformers_names()\n"
        "vit_hybrid.restore_transformers_names()",
        "import importlib, vit_hybrid.registration\nvit_hybrid.restore_transformers_names()\n"
        "importlib.reload(vit_hybrid.registration)\nimportlib.reload(vit_hybrid)",
    ],
    ids=["before transformers", "after transformers and twice", "reloaded"],
)
def test_restored_names(order: str) -> None:
    run_forked(order + RESTORED)


@pytest.mark.parametrize(
    "statement",
    [
        "from transformers.models.deprecated.vit_hybrid.modeling_vit_hybrid import ViTHybridEmbeddings",
        "from transformers.models.deprecated import vit_hybrid",
        "import transformers; transformers.models.vit_hybrid.modeling_vit_hybrid.ViTHybridLayer",
    ],
)
def test_restored_paths_one_at_a_time(statement: str) -> None:
    run_forked(f"import vit_hybrid\nvit_hybrid.restore_transformers_names()\n{statement}")


def test_names_are_not_restored_unasked() -> None:
    run_forked(
        textwrap.dedent(
            """
            import vit_hybrid, transformers
            from transformers import AutoModel
            AutoModel.register  # the registry is loaded
            for name in vit_hybrid.registration.FAMILY:
                assert not hasattr(transformers, name)
            try:
                import transformers.models.deprecated.vit_hybrid
            except ModuleNotFoundError:
                pass
            else:
                raise AssertionError("restored without being asked to")
            """
        )
    )


# From here on in this process, where vit_hybrid and transformers are loaded.


@pytest.mark.parametrize(
    "arguments",
    [
        {"use_fast": True},
        {"use_fast": False},
        {"backend": "pil"},
        {"backend": "torchvision"},
        {"backend": "numpy"},
        {"use_fast": True, "backend": "pil"},
    ],
    ids=str,
)
def test_every_backend_is_our_one_image_processor(folder: Path, arguments: dict[str, object]) -> None:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, **arguments)
    assert type(processor) is vit_hybrid.ViTHybridImageProcessor
    assert processor.crop_size["height"] == 32


@pytest.mark.parametrize(
    "named",
    [
        {"image_processor_type": "ViTHybridImageProcessor"},
        {"image_processor_type": "ViTHybridImageProcessorFast"},
        {"feature_extractor_type": "ViTHybridFeatureExtractor"},
        {},
    ],
    ids=str,
)
def test_image_processor_by_every_name_a_file_may_have(folder: Path, tmp_path: Path, named: dict[str, str]) -> None:
    from transformers import AutoImageProcessor

    settings = json.loads((folder / "preprocessor_config.json").read_text())
    del settings["image_processor_type"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, **named}))
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is vit_hybrid.ViTHybridImageProcessor
    assert processor.crop_size["height"] == 32


def test_enumerating_the_registry_works() -> None:
    from transformers import (
        CONFIG_MAPPING,
        IMAGE_PROCESSOR_MAPPING,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        MODEL_MAPPING,
    )
    from transformers.models.auto.auto_factory import _LazyAutoMapping
    from transformers.models.auto.configuration_auto import config_class_to_model_type, model_type_to_module_name
    from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_FOR_IMAGE_MAPPING

    config, model = vit_hybrid.ViTHybridConfig, vit_hybrid.ViTHybridModel
    assert "vit-hybrid" in CONFIG_MAPPING.keys()  # noqa: SIM118 - the method is what is tested
    assert "vit-hybrid" in list(CONFIG_MAPPING)
    assert CONFIG_MAPPING["vit-hybrid"] is config
    assert config_class_to_model_type("ViTHybridConfig") == "vit-hybrid"
    assert model_type_to_module_name("vit-hybrid") == "vit_hybrid"
    assert config in MODEL_MAPPING
    assert MODEL_MAPPING.get(config, None) is model
    assert MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[config] is vit_hybrid.ViTHybridForImageClassification
    assert MODEL_FOR_IMAGE_MAPPING[config] is model
    backbone = vit_hybrid.ViTHybridBackboneConfig
    assert CONFIG_MAPPING["vit-hybrid-backbone"] is backbone
    assert model_type_to_module_name("vit-hybrid-backbone") == "vit_hybrid"
    assert [MODEL_FOR_BACKBONE_MAPPING[one] for one in (config, backbone)] == [vit_hybrid.ViTHybridBackbone] * 2
    assert backbone not in MODEL_MAPPING
    processor = vit_hybrid.ViTHybridImageProcessor
    assert IMAGE_PROCESSOR_MAPPING[config] == {"pil": processor, "torchvision": processor}
    assert get_image_processor_class_from_name("ViTHybridImageProcessor") is vit_hybrid.ViTHybridImageProcessor
    # The whole registry would import every model of transformers: enumerate a small one made of its names.
    names = ("vit", "vit-hybrid")
    small = _LazyAutoMapping(
        OrderedDict((name, CONFIG_MAPPING._mapping[name]) for name in names),
        OrderedDict((name, MODEL_MAPPING._model_mapping[name]) for name in names),
    )
    assert [value.__name__ for value in small.values()] == ["ViTModel", "ViTHybridModel"]
    assert [key.__name__ for key in small] == ["ViTConfig", "ViTHybridConfig"]
    assert dict(small.items())[config] is model


def test_a_model_type_nobody_knows_names_ours_among_the_known() -> None:
    from transformers import AutoConfig

    with pytest.raises(ValueError, match="vit-hybrid"):
        AutoConfig.for_model("vit-hybridd")


def test_classes_and_configurations_can_be_pickled_and_copied() -> None:
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    for name in FAMILY:
        value = getattr(vit_hybrid, name)
        assert pickle.loads(pickle.dumps(value)) is value
    config = tiny_config()
    assert pickle.loads(pickle.dumps(config)).to_dict() == config.to_dict()
    assert copy.deepcopy(config).to_dict() == config.to_dict()
    model = vit_hybrid.ViTHybridForImageClassification(config)
    assert list(copy.deepcopy(model).state_dict()) == list(model.state_dict())
    assert list(pickle.loads(pickle.dumps(model)).state_dict()) == list(model.state_dict())
    assert pickle.loads(pickle.dumps(CONFIG_MAPPING))["vit-hybrid"] is vit_hybrid.ViTHybridConfig
    assert pickle.loads(pickle.dumps(MODEL_MAPPING))[type(config)] is vit_hybrid.ViTHybridModel


def test_several_threads_may_look_for_a_module_at_once_and_nobody_asks_back_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finder, name = registration._Finder(), f"{registration._AUTO}.modeling_auto"
    asked_back: list[object] = []
    found: list[ModuleSpec | None] = []

    class Other:
        def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec:
            if fails:
                raise ImportError(fails.pop())
            if not asked_back:
                asked_back.append(finder.find_spec(fullname))  # as a finder may that asks all in turn
                thread = threading.Thread(target=lambda: found.append(finder.find_spec(fullname)))
                thread.start()
                thread.join()
            return ModuleSpec(fullname, BuiltinImporter)  # type: ignore[arg-type]

    fails = ["once"]
    monkeypatch.setattr(sys, "meta_path", [finder, Other()])
    with pytest.raises(ImportError, match="once"):
        finder.find_spec(name)
    found.append(finder.find_spec(name))
    assert asked_back == [None]
    assert [type(spec.loader) for spec in found if spec is not None] == [registration._HookedLoader] * 2


def test_registering_again_changes_nothing() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    before, finders = dict(CONFIG_MAPPING_NAMES), list(sys.meta_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registration.register()
    assert dict(CONFIG_MAPPING_NAMES) == before
    assert sys.meta_path == finders


def test_a_name_that_is_in_a_table_already_stays() -> None:
    class Mapping(dict[object, object]):
        def __init__(self) -> None:
            self._reverse_config_mapping = {"ViTHybridConfig": "theirs"}

        def __contains__(self, name: object) -> bool:
            return True

    table, mapping = {registration.MODEL_TYPE: "Theirs"}, Mapping()
    module = SimpleNamespace(IMAGE_PROCESSOR_MAPPING_NAMES=table, IMAGE_PROCESSOR_MAPPING=mapping)
    registration._fill_registry(module, f"{registration._AUTO}.image_processing_auto")  # type: ignore[arg-type]
    assert table == {registration.MODEL_TYPE: "Theirs"}
    assert mapping._reverse_config_mapping == {"ViTHybridConfig": "theirs"}


def test_a_class_that_transformers_has_already_is_not_put_elsewhere() -> None:
    module = SimpleNamespace(_class_to_module={"ViTHybridModel": "models.theirs"}, __all__=["ViTHybridModel"])
    registration._restore_names(module, "transformers")  # type: ignore[arg-type]
    ours = dict.fromkeys(FAMILY, "models.vit_hybrid")
    assert module._class_to_module == {**ours, "ViTHybridModel": "models.theirs"}
    assert sorted(module.__all__) == FAMILY
