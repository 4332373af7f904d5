"""Imports go down the layers and, in a folder, back to earlier files; leaves stay free of what they must not load."""

import ast
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import vit_hybrid

PACKAGE = Path(vit_hybrid.__file__).parent
ROOT = "vit_hybrid"

# From top to bottom. A module may import those of lower layers; a folder counts as one module.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"train", "evaluate", "probe", "predict", "search", "serve", "explain", "export", "benchmark"},
    {"inference"},
    {"engines"},
    {"bundles"},
    {"checkpoints"},
    {"model", "data"},
    {"outputs", "runtimes"},
    {"images", "files"},
    {"registration", "errors", "assets", "first_use", "interrupt"},
)
# What stands on the same layer, and may be imported all the same.
BELOW = {"serve": "explain"}
HEIGHT = {name: -depth for depth, names in enumerate(LAYERS) for name in names}

# The files of a folder, in an order in which each imports earlier ones only; `__init__`, which hands on names, is last.
ORDER = {
    "images": (
        *("levels", "preprocessing", "image_processing", "resampling"),
        *("reading", "fast", "on_device", "preparing", "__init__"),
    ),
    "data": (
        *(
            "listing",
            "splits",
            "reading_ahead",
            "made",
            "targets",
            "sources",
            "pictures",
            "checksums",
            "held_back",
            "columns",
        ),
        *("folders", "tiny_imagenet", "tables", "parquet", "hub", "locating", "layout", "reading", "__init__"),
    ),
    "data/streams": (
        *("protocol", "packing", "stores", "patterns", "outlines", "units", "parquet", "tars", "lists"),
        *("files", "walking", "opening", "__init__"),
    ),
    "outputs": (
        "pages",
        "problems",
        "ranking",
        "vectors",
        "sets",
        "strangers",
        "reliability",
        "temperature",
        "confidence",
        "assessment",
        "tallies",
        "scores",
        "figures",
        "__init__",
    ),
    "model": (
        *("presets", "geometry", "configuration", "positions", "backbone", "packing", "modeling"),
        *("feature_configuration", "feature_backbone", "complexity", "token_merging", "giving", "__init__"),
    ),
    "checkpoints": (
        *("files", "matching", "published", "adapting", "own", "npz", "jax_weights", "jax"),
        *("timm_files", "timm_config", "timm", "dpt", "kinds", "opening", "calibrated", "converting", "__init__"),
    ),
    "bundles": (
        *("manifest", "cache", "calibration", "plain_config", "program", "openvino_graph", "building", "conversion"),
        *("sensitivity", "quantization", "making", "__init__"),
    ),
    "engines": (
        *(
            "processor",
            "devices",
            "ways",
            "racing",
            "protocol",
            "apart",
            "torch",
            "exported",
            "compiled",
            "openvino",
            "onnx",
        ),
        *("kept", "loading", "tuning", "settling", "agreement", "__init__"),
    ),
    "inference": (
        *("streaming", "predictor", "features", "calibrating"),
        *("facts", "shards", "workers", "actors", "cluster", "__init__"),
    ),
    "train": (
        *("run", "recipe", "processes", "progress", "interruption", "checkpointing", "resuming", "plan"),
        "measured",
        *("cropping", "augmentation", "pictures", "losses", "parameters", "muon", "optimizer", "averaging", "freezing"),
        *("adapters", "sharding", "trainer", "callbacks", "starting", "checks", "card", "finishing", "job", "__init__"),
    ),
    "predict": (
        *("places", "lines", "manifest", "rows", "settings", "output"),
        *("work", "nodes", "checking", "job", "__init__"),
    ),
    "search": ("laid", "index", "duplicates", "approximate", "queries", "sheet", "__init__"),
    "explain": (
        *(
            "methods",
            "attention",
            "gradients",
            "drawing",
            "hybrid",
            "plain",
            "passes",
            "twins",
            "explanation",
            "explainer",
            "checking",
            "paper",
            "writing",
            "html",
            "__init__",
        ),
    ),
    "serve": (
        *("settings", "problems", "logs", "client", "metrics", "keys", "bodies", "memory", "channel", "decoding"),
        *("worker", "workers"),
        *("batching", "connection", "gate", "explaining", "explanations", "asking", "schema", "pages"),
        *("app", "ray", "server", "__init__"),
    ),
    "evaluate": (
        *("pictures", "words", "evaluation", "writing", "assessing", "job"),
        *("labeling", "sources", "counting", "many", "__init__"),
    ),
    "probe": ("frozen", "solving", "protocol", "writing", "__init__"),
    "benchmark": (
        *("peer", "worker", "processes", "models", "machine", "contenders", "race", "settings"),
        *("report", "chart", "tables", "job", "__init__"),
    ),
    "cli": (
        *("grouping", "options", "many_pictures", "streams", "output", "session", "running", "scores", "maps", "parts"),
        *(
            "benchmark",
            "calibrate",
            "classify",
            "convert",
            "embed",
            "evaluate",
            "explain",
            "export",
            "info",
            "predict",
            "probe",
        ),
        *("search", "serve", "train", "tune"),
        *("main", "__init__"),
    ),
}

# The package itself stands outside of the layers: anybody may ask it for its version, and it knows these alone.
ROOT_IMPORTS = {"registration", "first_use", "interrupt"}

# Files and folders that must stay usable without these libraries; not even inside a function.
FREE_OF = {
    "images/levels.py": {"torch", "transformers"},
    "images/preprocessing.py": {"torch", "transformers"},
    "images/reading.py": {"torch", "transformers"},
    "images/resampling.py": {"torch", "transformers"},
    "images/fast.py": {"torch", "transformers"},
    "images/image_processing.py": {"torchvision"},
    "data": {"torch", "transformers"},
    "data/sources.py": {"torch", "transformers", "numpy", "PIL"},
    "outputs/figures.py": {"torch", "transformers"},
    "outputs/ranking.py": {"torch", "transformers"},
    "outputs/sets.py": {"torch", "transformers"},
    "outputs/strangers.py": {"torch", "transformers"},
    "outputs/temperature.py": {"torch", "transformers"},
    "outputs/confidence.py": {"torch", "transformers"},
    "outputs/reliability.py": {"torch", "transformers"},
    "outputs/assessment.py": {"torch", "transformers"},
    "outputs/vectors.py": {"torch", "transformers"},
    "search": {"torch", "transformers"},
    "checkpoints/files.py": {"torch", "transformers"},
    "checkpoints/published.py": {"torch", "transformers"},
    "checkpoints/opening.py": {"torch", "transformers"},
    "assets": {"torch", "transformers", "numpy", "PIL"},
    "serve": {"torch", "transformers"},
    "model/geometry.py": {"torch", "numpy", "PIL"},
    "model/configuration.py": {"torch", "numpy", "PIL"},
    "model/feature_configuration.py": {"torch", "numpy", "PIL"},
    "model/feature_backbone.py": {"numpy", "PIL"},
    "model/modeling.py": {"numpy", "PIL"},
    "model/backbone.py": {"numpy", "PIL"},
    "model/positions.py": {"numpy", "PIL"},
}
STANDARD_LIBRARY_ONLY = {
    *("__init__.py", "model/presets.py", "registration.py", "assets", "data/sources.py"),
    *("data/listing.py", "data/streams/protocol.py", "data/streams/packing.py", "data/streams/patterns.py"),
    "data/streams/__init__.py",
    *("errors.py", "first_use.py", "outputs/problems.py", "files.py", "runtimes.py", "data/reading_ahead.py"),
    *("engines/processor.py", "engines/ways.py", "engines/racing.py"),
    "interrupt.py",
    "explain/__init__.py",
    "explain/methods.py",
    *(f"serve/{name}.py" for name in ("__init__", "settings", "problems", "logs", "keys", "channel", "decoding")),
}

# What `register_for_auto_class` copies: a class's file and what it imports from its own folder; transformers finds the
# files by lines such as `from .configuration import`.
UPLOADED = {
    "model": (
        *("presets", "geometry", "configuration", "positions", "backbone", "packing", "modeling"),
        *("feature_configuration", "feature_backbone"),
    ),
    "images": ("levels", "preprocessing", "image_processing"),
}

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


def imported_files(source: str, file: str, known: Collection[str]) -> set[str]:
    """Those of the package's files that `file`, with this source, imports by name; paths as `cli/main.py`."""
    found: set[str] = set()
    parents = file.split("/")[:-1]
    for node in imports(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        else:
            start = [ROOT, *parents][: 1 + len(parents) - (node.level - 1)] if node.level else []
            stem = [*start, *(node.module.split(".") if node.module else ())]
            targets = [[*stem, alias.name] for alias in node.names]
        for target in targets:
            if target[0] != ROOT:
                continue
            # What is no file is a name that the file before it defines.
            for path in ("/".join(target[1:]), "/".join(target[1:-1])):
                there = {f"{path}.py", f"{path}/__init__.py".lstrip("/")} & {*known}
                if there:
                    found |= there
                    break
    return found - {file}


def out_of_order(order: Sequence[str], file: str, imported: Collection[str]) -> set[str]:
    """Those of the imported files that lie in the folder of `file`, but not before it in the folder's order."""
    folder, _, name = file.removesuffix(".py").rpartition("/")
    siblings = {other for other in imported if other.rpartition("/")[0] == folder}
    earlier = {f"{folder}/{other}.py" for other in order[: order.index(name)]}
    return siblings - earlier


def circles(graph: Mapping[str, Collection[str]]) -> set[str]:
    """The files of a graph of imports that import themselves by way of others."""
    reached = {file: set(imported) for file, imported in graph.items()}
    while True:
        further = {file: found.union(*(reached[other] for other in found)) for file, found in reached.items()}
        if further == reached:
            return {file for file, found in reached.items() if file in found}
        reached = further


def refused(name: str, inner: set[str]) -> set[str]:
    """Those of the imported modules that lie on the same layer as `name` or above it."""
    others = inner - {name, "__init__", BELOW.get(name)}
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


KNOWN = [path.relative_to(PACKAGE).as_posix() for path in FILES]
GRAPH = {file: imported_files((PACKAGE / file).read_text(), file, KNOWN) for file in KNOWN}


@pytest.mark.parametrize("folder", ORDER)
def test_files_of_a_folder_import_earlier_ones(folder: str) -> None:
    files = [file for file in KNOWN if file.rpartition("/")[0] == folder]
    assert set(files) == {f"{folder}/{name}.py" for name in ORDER[folder]}, "give a new file its place in ORDER"
    assert {file: out_of_order(ORDER[folder], file, GRAPH[file]) for file in files} == {file: set() for file in files}


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not circles(GRAPH)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_leaves_stay_light(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    names = {place.as_posix(), name_of(path)}
    _, outer = imports_of(path)
    assert not outer & {library for name in names for library in FREE_OF.get(name, ())}
    if names & STANDARD_LIBRARY_ONLY:
        assert outer <= set(sys.stdlib_module_names)
    assert "torchvision" not in outer


@pytest.mark.parametrize("name", ["backbone", "modeling"])
def test_the_model_uses_no_layers_of_transformers_bit(name: str) -> None:
    foreign = {"BitBackbone", "BitModel", "BitPreTrainedModel", "AutoBackbone", "load_backbone"}
    for node in imports(ast.parse((PACKAGE / "model" / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            continue
        origin = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        names = {alias.name for alias in node.names}
        assert not any("modeling_bit" in part for part in (origin, *names))
        assert not names & foreign


@pytest.mark.parametrize(("folder", "name"), [(folder, name) for folder in UPLOADED for name in UPLOADED[folder]])
def test_files_for_upload_import_each_other_as_transformers_can_follow(folder: str, name: str) -> None:
    for node in imports(ast.parse((PACKAGE / folder / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            assert ROOT not in {alias.name.partition(".")[0] for alias in node.names}
        else:
            assert (node.module or "").partition(".")[0] != ROOT or node.level
            if node.level:
                assert node.level == 1
                assert node.module in UPLOADED[folder], f"{name} would miss {node.module or node.names[0].name}"


@pytest.mark.parametrize(
    ("source", "parents", "expected"),
    [
        ("from .model.modeling import ViTHybridModel", (), ({"model"}, set())),
        ("from . import registration", (), ({"registration"}, set())),
        ("from .. import __version__", ("cli",), ({"__init__"}, set())),
        ("from ..inference.predictor import Predictor", ("cli",), ({"inference"}, set())),
        ("from .output import refuse", ("cli",), ({"cli"}, set())),
        ("import vit_hybrid.model as m, torch.nn", (), ({"model"}, {"torch"})),
        ("from vit_hybrid import Predictor", (), ({"__init__"}, set())),
        ("def f():\n    if True:\n        from .inference import Predictor", (), ({"inference"}, set())),
        ("if TYPE_CHECKING:\n    from .inference import Predictor\nelse:\n    import torch", (), (set(), {"torch"})),
    ],
)
def test_reading_of_imports(source: str, parents: tuple[str, ...], expected: tuple[set[str], set[str]]) -> None:
    assert inner_and_outer(source, parents) == expected


def test_up_and_sideways_are_refused() -> None:
    assert refused("images", {"model"}) == {"model"}
    assert refused("model", {"data", "outputs", "images"}) == {"data"}
    assert refused("train", {"evaluate", "inference"}) == {"evaluate"}
    assert refused("train", {"explain"}) == {"explain"}
    assert not refused("serve", {"explain"})
    assert refused("explain", {"serve"}) == {"serve"}
    assert not refused("cli", {"cli", "inference", "__init__"})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from .levels import to_rgb", {"images/levels.py"}),
        ("from . import levels, reading", {"images/levels.py", "images/reading.py"}),
        ("from . import VERSION", {"images/__init__.py"}),
        ("from .. import engines, __version__", {"engines/__init__.py", "__init__.py"}),
        ("from ..engines import load", {"engines/__init__.py"}),
        ("from ..engines.protocol import AUTO", {"engines/protocol.py"}),
        ("from ..errors import one_line", {"errors.py"}),
        ("import vit_hybrid.engines.protocol, torch.nn", {"engines/protocol.py"}),
        ("from vit_hybrid.images import levels", {"images/levels.py"}),
        ("from torch import nn", set()),
        ("def f():\n    if True:\n        from .levels import to_rgb", {"images/levels.py"}),
        ("if TYPE_CHECKING:\n    from .levels import to_rgb\nelse:\n    from . import reading", {"images/reading.py"}),
        ("from .fast import itself", set()),
    ],
)
def test_reading_of_imported_files(source: str, expected: set[str]) -> None:
    images = [f"images/{name}.py" for name in ("__init__", "fast", "levels", "reading")]
    known = ["__init__.py", "errors.py", "engines/__init__.py", "engines/protocol.py", *images]
    assert imported_files(source, "images/fast.py", known) == expected


def test_later_files_of_a_folder_are_refused() -> None:
    order = ("a", "b", "c", "__init__")
    assert out_of_order(order, "x/b.py", {"x/a.py", "x/c.py", "y/c.py", "x/__init__.py"}) == {"x/c.py", "x/__init__.py"}
    assert not out_of_order(order, "x/c.py", {"x/a.py", "x/b.py", "z.py"})
    assert not out_of_order(order, "x/__init__.py", {"x/a.py", "x/c.py"})


def test_circles_are_found_however_long() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"a", "c"}}) == set()
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == {"a", "b"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}, "e": set()}) == {"b", "c", "d"}


def test_no_file_is_too_long_to_be_read_at_once() -> None:
    """But for the model, whose old module path promises that it is one, and timm's names."""
    long = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if len(path.read_text(encoding="utf-8").splitlines()) > 500
    }
    assert long <= {"model/modeling.py", "checkpoints/timm.py"}
