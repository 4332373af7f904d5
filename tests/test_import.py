"""`import vit_hybrid` is cheap, lazy and names what it offers."""

import json

import fresh_process
import pytest

import vit_hybrid

FAMILY = {
    "ViTHybridConfig",
    "ViTHybridImageProcessor",
    "ViTHybridPreTrainedModel",
    "ViTHybridModel",
    "ViTHybridForImageClassification",
}
# Of what `import torch` takes, in processor time; a tenth of a second where that takes 1.4.
MOST = 0.07


def test_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import json, sys, vit_hybrid; vit_hybrid.restore_transformers_names(); dir(vit_hybrid); "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    loaded = set(json.loads(fresh_process.run(code)))
    assert "vit_hybrid" in loaded
    assert not loaded & {"torch", "transformers", "huggingface_hub", "numpy", "PIL"}


@pytest.mark.alone
def test_takes_a_small_share_of_a_start() -> None:
    """With the start and the end of the interpreter."""
    assert fresh_process.share_of_importing_torch("import vit_hybrid") < MOST


def test_dir_and_all_name_every_public_name() -> None:
    backbone = {"ViTHybridBackbone", "ViTHybridBackboneConfig"}
    expected = FAMILY | backbone | {"Predictor", "explain", "predict", "restore_transformers_names", "__version__"}
    assert set(vit_hybrid.__all__) == expected
    assert expected <= set(dir(vit_hybrid))


@pytest.mark.parametrize("name", sorted(FAMILY))
def test_names_resolve_to_classes_of_that_name(name: str) -> None:
    value = getattr(vit_hybrid, name)
    assert isinstance(value, type)
    assert value.__name__ == name
    assert value.__module__.startswith("vit_hybrid.")


def test_predictor_resolves() -> None:
    assert vit_hybrid.Predictor.__module__ == "vit_hybrid.inference.predictor"


def test_predict_is_called_whoever_has_imported_it_first() -> None:
    code = (
        "import vit_hybrid{}; from vit_hybrid.predict.job import predict; vit_hybrid.predict.job.predict = print; "
        "vit_hybrid.predict.predict = print; vit_hybrid.predict('called', 'so', sep='-')"
    )
    assert fresh_process.run(code.format("")).strip() == "called-so"
    assert fresh_process.run(code.format(".predict.rows")).strip() == "called-so"


def test_explain_is_called_whoever_has_imported_it_first() -> None:
    code = (
        "import vit_hybrid{}; from vit_hybrid.explain import explainer; vit_hybrid.explain.explain = print; "
        "vit_hybrid.explain('called')"
    )
    assert fresh_process.run(code.format("")).strip() == "called"
    assert fresh_process.run(code.format(".explain.methods")).strip() == "called"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ViTHybridForSegmentation'"):
        vit_hybrid.ViTHybridForSegmentation  # noqa: B018


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert vit_hybrid.__version__ == version("vit-hybrid")
