"""Record what the authors' JAX code computes, for tests/checkpoints/test_jax.py to hold the package against.

    git clone https://github.com/google-research/vision_transformer
    python -m venv jax
    jax/bin/pip install jax==0.10.2 flax==0.12.8 numpy==2.4.6 scipy==1.17.1
    PYTHONPATH=vision_transformer jax/bin/python scripts/record_jax_outputs.py

Writes under `tests/recorded/jax`: `cases.json` (how each model is made, and its weights' names and shapes as Flax has
them), `outputs.npz` (logits, and position embeddings that were zoomed), and `stem_only.npz` (one whole checkpoint, as
`numpy.savez` writes Flax's weights). Other weights, and pixels, are not stored: they follow from `tests/jax_recipe.py`.

    PYTHONPATH=vision_transformer jax/bin/python scripts/record_jax_outputs.py --check FOLDER

reads `FOLDER/<case>.npz` instead, the way that code reads a checkpoint, and compares logits with the recorded ones. The
test that writes such a folder runs where `VIT_HYBRID_JAX_PYTHON` names an interpreter with JAX and `PYTHONPATH` the
code.
"""

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import scipy.ndimage
from flax.training.checkpoints import convert_pre_linen
from flax.traverse_util import flatten_dict, unflatten_dict
from vit_jax.models_vit import VisionTransformer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import jax_recipe as recipe  # noqa: E402  (found through the line above)

DATA = ROOT / "tests" / "recorded" / "jax"
TOLERANCE = 1e-5

CASES: dict[str, dict[str, Any]] = {
    "stem_only": {
        "blocks": [], "width_factor": 0.5, "patch": 4, "image_size": 32,
        "hidden": 24, "layers": 1, "heads": 3, "mlp": 32, "representation": None, "classes": 5,
    },
    "stages": {
        "blocks": [1, 2], "width_factor": 0.5, "patch": 1, "image_size": 32,
        "hidden": 32, "layers": 2, "heads": 2, "mlp": 48, "representation": None, "classes": 7,
    },
    "pre_logits": {
        "blocks": [2], "width_factor": 1, "patch": 2, "image_size": 24,
        "hidden": 32, "layers": 1, "heads": 4, "mlp": 64, "representation": 20, "classes": 3,
    },
    "stem_only_pre_logits": {
        "blocks": [], "width_factor": 1, "patch": 8, "image_size": 64,
        "hidden": 32, "layers": 2, "heads": 1, "mlp": 40, "representation": 16, "classes": 4,
    },
    "four_stages_headless": {
        "blocks": [1, 1, 1, 1], "width_factor": 0.5, "patch": 1, "image_size": 64,
        "hidden": 32, "layers": 1, "heads": 2, "mlp": 64, "representation": None, "classes": None,
    },
    # 70 pixels make a map of 9 x 9, as 72 would.
    "odd_size": {
        "blocks": [1, 1], "width_factor": 0.5, "patch": 1, "image_size": 70,
        "hidden": 16, "layers": 1, "heads": 2, "mlp": 24, "representation": None, "classes": 2,
    },
}  # fmt: skip
WHOLE_FILE = "stem_only"
# (side before, side after)
ZOOMS = ((2, 5), (5, 2), (7, 12), (12, 7))
ZOOM_WIDTH = 3


def model_of(case: dict[str, Any]) -> VisionTransformer:
    return VisionTransformer(
        num_classes=case["classes"],
        patches=SimpleNamespace(size=(case["patch"], case["patch"])),
        transformer={"num_layers": case["layers"], "mlp_dim": case["mlp"], "num_heads": case["heads"]},
        hidden_size=case["hidden"],
        resnet=SimpleNamespace(num_layers=tuple(case["blocks"]), width_factor=case["width_factor"]),
        representation_size=case["representation"],
    )


def logits(case: dict[str, Any], params: dict[str, Any]) -> np.ndarray:
    return np.asarray(model_of(case).apply({"params": params}, recipe.pixels(case["image_size"]), train=False))


def zoomed(side: int, new_side: int) -> np.ndarray:
    """As vit_jax/checkpoint.py fits position embeddings to another grid."""
    positions = recipe.positions(side, ZOOM_WIDTH)
    grid = positions[0, 1:].reshape(side, side, ZOOM_WIDTH)
    grid = scipy.ndimage.zoom(grid, (new_side / side, new_side / side, 1), order=1)
    return np.concatenate((positions[:, :1], grid.reshape(1, new_side * new_side, ZOOM_WIDTH)), axis=1)


def record() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    cases, outputs = {}, {}
    for name, case in CASES.items():
        variables = model_of(case).init(jax.random.PRNGKey(0), recipe.pixels(case["image_size"]), train=False)
        shapes = {key: list(value.shape) for key, value in flatten_dict(variables["params"], sep="/").items()}
        weights = recipe.weights(shapes)
        cases[name] = {**case, "shapes": shapes}
        outputs[name] = logits(case, unflatten_dict(weights, sep="/"))
        if name == WHOLE_FILE:
            np.savez(DATA / f"{name}.npz", **weights)
        print(
            f"{name}: {sum(map(np.size, weights.values())):,} weights, logits up to {np.abs(outputs[name]).max():.3f}"
        )
    for before, after in ZOOMS:
        outputs[f"zoom_{before}_{after}"] = zoomed(before, after)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    (DATA / "cases.json").write_text(f"{{\n{lines}\n}}\n")
    np.savez(DATA / "outputs.npz", **outputs)


def check(folder: Path) -> None:
    recorded = np.load(DATA / "outputs.npz")
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            params = convert_pre_linen(unflatten_dict(dict(arrays), sep="/"))
        difference = np.abs(logits(CASES[path.stem], params) - recorded[path.stem]).max()
        print(f"{path.stem}: {difference:.1e}")
        if difference > TOLERANCE:
            sys.exit(f"{path} gives other logits than were recorded.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    check(arguments.check) if arguments.check else record()
