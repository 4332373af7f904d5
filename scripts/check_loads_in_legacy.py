"""Check with both libraries at hand that files go from here to transformers 4.49 and from there to here.

    python scripts/check_loads_in_legacy.py --legacy legacy/bin/python

For every case of tests/recorded/legacy a model saved by this package is loaded by 4.49, and one saved by 4.49 is loaded
by this package; no key may be missing or left over, and the reader's outputs must be the writer's. `--legacy` names a
Python with transformers 4.49.0. Exit status 1 if any file does not go through.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import legacy_recipe as recipe  # noqa: E402  (found through the line above)

CASES = ROOT / "tests" / "recorded" / "legacy" / "cases.json"
TOLERANCE = 1e-4  # float32 outputs, relative to the largest: the two libraries sum in different orders
KINDS = ("classifier", "base")


def family(module: Any) -> tuple[Any, dict[str, Any]]:
    """The configuration class and the two model classes of `module`, which is this package or transformers 4.49."""
    return module.ViTHybridConfig, {"classifier": module.ViTHybridForImageClassification, "base": module.ViTHybridModel}


def outputs(model: torch.nn.Module, kind: str, case: dict[str, Any]) -> np.ndarray:
    """Logits of a classifier, pooled output of a bare model."""
    arguments = recipe.options({**case, "head_mask": None}, torch.float32)  # 4.49's sdpa misreads a head mask
    with torch.no_grad():
        found = model.eval()(**arguments)
    return (found.logits if kind == "classifier" else found.pooler_output).numpy()


def write(module: Any, cases: list[dict[str, Any]], folder: Path) -> None:
    """Save both models of every case under `folder` as `module` does it, each with the outputs it gives."""
    config_class, models = family(module)
    for case in cases:
        for kind in KINDS:
            place = folder / case["name"] / kind
            place.mkdir(parents=True)
            (place / "config.json").write_text(json.dumps(case["config"]))
            model = recipe.fill(models[kind](config_class.from_pretrained(place)))
            model.save_pretrained(place)
            np.save(place / "outputs.npy", outputs(model, kind, case))


def read(module: Any, cases: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Load every model under `folder` with `module`; for each, the keys that do not fit and the relative deviation."""
    _, models = family(module)
    found = []
    for case in cases:
        for kind in KINDS:
            place = folder / case["name"] / kind
            model, report = models[kind].from_pretrained(place, output_loading_info=True)
            expected = np.load(place / "outputs.npy")
            deviation = np.abs(outputs(model, kind, case) - expected).max() / np.abs(expected).max()
            unfit = sorted(str(key) for keys in report.values() for key in keys)
            found.append({"model": f"{case['name']}/{kind}", "unfit": unfit, "deviation": float(deviation)})
    return found


def run_legacy(arguments: argparse.Namespace) -> None:
    """What the 4.49 interpreter is started for: read what was saved here, then save the same models itself."""
    import transformers

    cases = json.loads(CASES.read_text())
    (arguments.folder / "report.json").write_text(json.dumps(read(transformers, cases, arguments.folder / "here")))
    write(transformers, cases, arguments.folder / "there")


def report(title: str, findings: list[dict[str, Any]]) -> bool:
    """Print a line for each model that did not go through and one for all; whether all did."""
    bad = [row for row in findings if row["unfit"] or not row["deviation"] <= TOLERANCE]
    for row in bad:
        print(f"{title}: {row['model']} deviates by {row['deviation']:.1e}; keys that do not fit: {row['unfit']}")
    worst = max(row["deviation"] for row in findings)
    print(f"{title}: {len(findings) - len(bad)} of {len(findings)} models, largest deviation {worst:.1e}")
    return not bad


def main() -> None:
    """Parse, save here, read and save there, read here, report."""
    parser = argparse.ArgumentParser(description="Exchange files with transformers 4.49 in both directions.")
    parser.add_argument("--legacy", metavar="PYTHON", help="interpreter that has transformers 4.49.0")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # set where this file runs under 4.49
    arguments = parser.parse_args()
    if arguments.folder:
        run_legacy(arguments)
        return
    if not arguments.legacy:
        parser.error("--legacy is needed: the path of a Python with transformers 4.49.0")

    import vit_hybrid

    cases = json.loads(CASES.read_text())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(vit_hybrid, cases, folder / "here")
        done = subprocess.run([arguments.legacy, __file__, "--folder", folder], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"the 4.49 interpreter failed with status {done.returncode}:\n{done.stderr}")
        there = report("saved here, loaded by 4.49", json.loads((folder / "report.json").read_text()))
        here = report("saved by 4.49, loaded here", read(vit_hybrid, cases, folder / "there"))
    if not (there and here):
        sys.exit(1)


if __name__ == "__main__":
    main()
