"""Measures a trained model on CIFAR-10's test images, once, and makes it the model in the package.

    vit-hybrid train ../shared/data/cifar10 --output runs/box --recipe from-scratch    # hours; --resume goes on
    python scripts/release_box_model.py runs/box

Nothing is chosen on the test images: the recipe keeps the weights after the last step.
"""

import argparse
import json
import os
from pathlib import Path

import torch

from vit_hybrid import Predictor, ViTHybridForImageClassification, ViTHybridImageProcessor
from vit_hybrid.data import read_labeled
from vit_hybrid.evaluate import evaluate

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("VIT_HYBRID_DATA", ROOT.parent / "shared" / "data")) / "cifar10"
ASSETS = ROOT / "src" / "vit_hybrid" / "assets"
CARD = Path(__file__).with_name("box_model_card.md")
BATCH_SIZE = 250


def release(run: Path, assets: Path) -> None:
    """Measures the model of `run`, and writes it, its log and its card into `assets`."""
    predictor = Predictor.from_pretrained(run, device="cpu", batch_size=BATCH_SIZE)
    report = evaluate(predictor, read_labeled(DATA, "test"), strict=True).report()
    print(f"top-1 {report['top1']:.4f}, top-5 {report['top5']:.4f} on {report['images']:,} test images")

    model = ViTHybridForImageClassification.from_pretrained(run, dtype=torch.float32)
    model.save_pretrained(assets)
    ViTHybridImageProcessor.from_pretrained(run).save_pretrained(assets)
    facts = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    kept = ("seed", "seconds", "hardware", "versions", "finished", "command", "kept", "recipe", "log")
    log = {name: facts[name] for name in kept}
    (assets / "training_log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    (assets / "README.md").write_text(card(model, report, facts), encoding="utf-8")


def card(model: ViTHybridForImageClassification, report: dict, facts: dict) -> str:
    """The model card: `box_model_card.md` with its figures filled in."""
    recipe = facts["recipe"]
    labels = list(report["per_class"])
    schedule = [f"{phase['epochs']} epochs at {phase['image_size']} px" for phase in recipe["growing"]]
    return CARD.read_text(encoding="utf-8").format(
        labels=", ".join(labels),
        parameters=model.num_parameters(),
        images=report["images"],
        top1=100 * report["top1"],
        top5=100 * report["top5"],
        calibration=100 * report["expected_calibration_error"],
        classes="\n".join(f"| {label} | {100 * report['per_class'][label]['recall']:.1f} % |" for label in labels),
        schedule=", then ".join(schedule),
        depths=", ".join(map(str, model.config.backbone_config.depths)),
        widths=", ".join(map(str, model.config.backbone_config.hidden_sizes)),
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
        hours=facts["seconds"] / 3600,
        torch=facts["versions"]["torch"],
        **{name: facts[name] for name in ("hardware", "finished", "train_images", "validation_images")},
        **{name: recipe[name] for name in ("learning_rate", "adam_learning_rate", "weight_decay", "batch_size")},
        **{name: recipe[name] for name in ("label_smoothing", "seed", "shift", "warmup", "epochs")},
        erase=recipe["erase"],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder that vit-hybrid train wrote")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    options = parser.parse_args()
    release(options.run, options.assets)
