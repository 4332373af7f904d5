"""Imports inside the package go down the layers, never up or sideways; leaves stay free of what they must not load."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vit_hybrid

PACKAGE = Path(vit_hybrid.__file__).parent
ROOT = "vit_hybrid"

# From top to bottom. A module may import those of lower layers; a folder counts as one module.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"train", "evaluate", "probe", "predict", "serve", "explain", "benchmark", "export"},
    {"opening"},
    {"predictor"},
    {"engines"},
    {"bundles"},
    {"checkpoints", "pretrained"},
    {"modeling", "image_processing", "device_preprocessing"},
    {"fast_preprocessing"},
    {"labeled", "model_files", "resampling"},
    {"backbone", "complexity", "positions", "preprocessing", "scores", "figures"},
    {"configuration"},
    {"presets", "registration", "assets", "sources", "errors", "problems", "replacing", "reading_ahead"},
)
HEIGHT = {name: -depth for depth, names in enumerate(LAYERS) for name in names}

# The package itself stands outside of the layers: anybody may ask it for its version, and it only knows registration.
ROOT_IMPORTS = {"registration"}

# Modules that must stay usable without these libraries; not even inside a function.
FREE_OF = {
    "preprocessing": {"torch", "transformers"},
    "sources": {"torch", "transformers", "numpy", "PIL"},
    "labeled": {"torch", "transformers"},
    "fast_preprocessing": {"torch", "transformers"},
    "model_files": {"torch", "transformers"},
    "figures": {"torch", "transformers"},
    "assets": {"torch", "transformers", "numpy", "PIL"},
    "configuration": {"torch", "numpy", "PIL"},
    "image_processing": {"torchvision"},
    "modeling": {"numpy", "PIL"},
    "backbone": {"numpy", "PIL"},
    "positions": {"numpy", "PIL"},
}
STANDARD_LIBRARY_ONLY = {
    *("__init__", "presets", "registration", "assets", "sources"),
    *("errors", "problems", "replacing", "reading_ahead"),
}

# What `register_for_auto_class` copies; transformers finds the files by lines such as `from .configuration import`.
UPLOADED = ("presets", "configuration", "backbone", "positions", "modeling", "image_processing", "preprocessing")

FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """The module of the package that a file belongs to: the first part of its path."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_type_checking_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports that can run, those inside functions included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif is_type_checking_only(node):
            yield from imports(ast.Module(node.orelse, type_ignores=[]))  # type: ignore[attr-defined]
        else:
            yield from imports(node)


def inner_and_outer(source: str, parents: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Modules of the package, and top-level names of other libraries, that a file in the folders `parents` imports."""
    inner: set[str] = set()
    outer: set[str] = set()
    for node in imports(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif node.level:
            start = [ROOT, *parents][: 1 + len(parents) - (node.level - 1)]
            stem = [*start, *(node.module.split(".") if node.module else ())]
            # `from . import name` may name a module or something that the package defines
            targets = [stem] if len(stem) > 1 else [[*stem, alias.name] for alias in node.names]
        else:
            targets = [(node.module or "").split(".")]
        for target in targets:
            if target[0] != ROOT:
                outer.add(target[0])
            elif len(target) > 1 and ((PACKAGE / target[1]).is_dir() or (PACKAGE / f"{target[1]}.py").exists()):
                inner.add(target[1])
            else:
                inner.add("__init__")
    return inner, outer


def imports_of(path: Path) -> tuple[set[str], set[str]]:
    return inner_and_outer(path.read_text(), path.relative_to(PACKAGE).parts[:-1])


def refused(name: str, inner: set[str]) -> set[str]:
    """Those of the imported modules that lie on the same layer as `name` or above it."""
    others = inner - {name, "__init__"}
    return {other for other in others if HEIGHT[other] >= HEIGHT[name]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path: Path) -> None:
    name = name_of(path)
    inner, _ = imports_of(path)
    if name == "__init__":
        assert inner <= ROOT_IMPORTS
        return
    assert {name, *inner} <= {*HEIGHT, "__init__"}, "give a new module its place in LAYERS"
    assert not refused(name, inner)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_leaves_stay_light(path: Path) -> None:
    name = name_of(path)
    _, outer = imports_of(path)
    assert not outer & FREE_OF.get(name, set())
    if name in STANDARD_LIBRARY_ONLY:
        assert outer <= set(sys.stdlib_module_names)
    assert "torchvision" not in outer


@pytest.mark.parametrize("name", ["backbone", "modeling"])
def test_the_model_uses_no_layers_of_transformers_bit(name: str) -> None:
    foreign = {"BitBackbone", "BitModel", "BitPreTrainedModel", "AutoBackbone", "load_backbone"}
    for node in imports(ast.parse((PACKAGE / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            continue
        origin = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        names = {alias.name for alias in node.names}
        assert not any("modeling_bit" in part for part in (origin, *names))
        assert not names & foreign


@pytest.mark.parametrize("name", UPLOADED)
def test_files_for_upload_import_each_other_as_transformers_can_follow(name: str) -> None:
    for node in imports(ast.parse((PACKAGE / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            assert ROOT not in {alias.name.partition(".")[0] for alias in node.names}
        else:
            assert (node.module or "").partition(".")[0] != ROOT or node.level
            if node.level:
                assert node.level == 1
                assert node.module in UPLOADED, f"{name} would miss {node.module or node.names[0].name}"


@pytest.mark.parametrize(
    ("source", "parents", "expected"),
    [
        ("from .modeling import ViTHybridModel", (), ({"modeling"}, set())),
        ("from . import registration", (), ({"registration"}, set())),
        ("from .. import __version__", ("cli",), ({"__init__"}, set())),
        ("from ..predictor import Predictor", ("cli",), ({"predictor"}, set())),
        ("from .output import refuse", ("cli",), ({"cli"}, set())),
        ("import vit_hybrid.modeling as m, torch.nn", (), ({"modeling"}, {"torch"})),
        ("from vit_hybrid import Predictor", (), ({"__init__"}, set())),
        ("def f():\n    if True:\n        from .predictor import Predictor", (), ({"predictor"}, set())),
        ("if TYPE_CHECKING:\n    from .predictor import Predictor\nelse:\n    import torch", (), (set(), {"torch"})),
    ],
)
def test_reading_of_imports(source: str, parents: tuple[str, ...], expected: tuple[set[str], set[str]]) -> None:
    assert inner_and_outer(source, parents) == expected


def test_up_and_sideways_are_refused() -> None:
    assert refused("configuration", {"modeling"}) == {"modeling"}
    assert refused("modeling", {"image_processing", "backbone", "configuration"}) == {"image_processing"}
    assert refused("backbone", {"preprocessing", "configuration"}) == {"preprocessing"}
    assert not refused("cli", {"cli", "predictor", "__init__"})
