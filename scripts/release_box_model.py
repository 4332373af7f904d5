"""Makes a trained model the one in the package, measures it, and writes all that follows from its weights.

    vit-hybrid train tiny-imagenet-200 --output runs/box --recipe tiny-imagenet --threads 1    # hours; --resume goes on
    python scripts/release_box_model.py runs/box tiny-imagenet-200
    python scripts/release_box_model.py - tiny-imagenet-200    # the weights that are there: what is not yet measured

First the weights, in half precision, the configuration and the log go into the package; then the figures are measured,
each by the command that a person would type; then the card, the tables of docs/ and what examples/README.md says are
written from them. Figures are kept as they come, in `figures.json` beside the weights, so that a release that was
stopped goes on where it was; other weights have all of them measured anew. Nothing is chosen on the validation
pictures: the recipe keeps the weights after the last step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from vit_hybrid import Predictor, ViTHybridForImageClassification, ViTHybridImageProcessor
from vit_hybrid.assets import BUILT_IN_FOLDER, BUILT_IN_MODEL
from vit_hybrid.data import LabeledPictures, Split, read_splits
from vit_hybrid.data.tiny_imagenet import known_labels
from vit_hybrid.evaluate import evaluate
from vit_hybrid.outputs.problems import DEFAULT_FALSE_ALARMS
from vit_hybrid.train.recipe import held_back_pictures, load_recipe

sys.path.insert(0, str(Path(__file__).parent))  # where this is loaded as a module
import box_confidence

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "src" / "vit_hybrid" / "assets"
CARD = Path(__file__).with_name("box_model_card.md")
EXAMPLES = ROOT / "examples"
PHOTOGRAPHS, NEW_CLASSES = "photos", "tinyphotos10"
RECIPE = "tiny-imagenet"
KEPT = Path("-")
SEEDS = (0, 1, 2)
EDGES = (64, 68, 72, 76, 80)
MERGED = (1, 2, 3, 4)
PATHS = ("torch:bf16", "openvino:f32", "openvino:bf16", "openvino:int8", "onnx:f32", "onnx:int8", "openvino:int8:2")
WEIGHTS_FILE, FIGURES_FILE, LOG_FILE = "model.safetensors", "figures.json", "training_log.json"
# What of a run's metrics the package keeps; not the command, which names folders of one machine.
LOGGED = ("seed", "seconds", "hardware", "versions", "finished", "kept", "recipe", "log")
# Half precision may move the accuracy on the 3,600 held-back pictures by so much: about one and a half pictures.
ROUNDING = 0.0005
WIDTH = 120  # of the card's lines
NOT_YET = "Not yet measured of these weights."
PREDICTIONS = 3  # that examples/README.md shows of a photo

Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder that vit-hybrid train wrote; - keeps the package's weights")
    parser.add_argument("tiny_imagenet", type=Path, help="the folder tiny-imagenet-200")
    data = Path(os.environ.get("VIT_HYBRID_DATA") or ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=data, help=f"the folder with {PHOTOGRAPHS}, {NEW_CLASSES} ...")
    parser.add_argument("--without", nargs="+", default=[], metavar="STEP", help="steps to leave for another time")
    options = parser.parse_args()
    if BUILT_IN_FOLDER.resolve() != ASSETS:
        parser.error(f"the package in use is {BUILT_IN_FOLDER}; install this checkout: pip install -e {ROOT}")
    if options.run == KEPT:
        facts = json.loads((ASSETS / LOG_FILE).read_text(encoding="utf-8"))
        split = recipes_split(options.tiny_imagenet)
        facts |= {"train_images": len(split.train), "validation_images": len(split.val)}
    else:
        facts = json.loads((options.run / "metrics.json").read_text(encoding="utf-8"))
        write_weights(options.run, facts)
    steps: dict[str, Callable[[], Any]] = {
        "shorter_edge": lambda: shorter_edge(options.run, options.tiny_imagenet),
        "held_back": lambda: held_back(options.run, options.tiny_imagenet),
        "confidence": lambda: box_confidence.fit(ASSETS, recipes_split(options.tiny_imagenet)),
        "trust": lambda: box_confidence.measure(ASSETS, options.tiny_imagenet, options.data, NEW_CLASSES),
        "validation": lambda: validation(options.tiny_imagenet),
        "photographs": lambda: photographs(options.data / PHOTOGRAPHS),
        "examples": lambda: classified(examples()),
        "familiar": lambda: {name: one["familiarity"] for name, one in said(examples()).items()},
        "probe": lambda: probe(options.data / NEW_CLASSES),
        "engines": lambda: accuracy(options.tiny_imagenet, PATHS),
        "token_merging": lambda: accuracy(options.tiny_imagenet, [f"torch:f32:{merged}" for merged in MERGED]),
        "fine_tuning": lambda: fine_tuning(options.data / NEW_CLASSES),
    }
    unknown = sorted(set(options.without) - (set(steps) - {"shorter_edge"}))
    if unknown:
        parser.error(f"--without {unknown[0]}: expected some of {', '.join(steps)}")
    figures = figures_of_weights()
    for name, measure in steps.items():
        if name not in figures and name not in options.without:
            print(f"{name} ...", flush=True)
            figures[name] = measure()
            (ASSETS / FIGURES_FILE).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        if name == "shorter_edge" and options.run != KEPT:
            write_processor(options.run, figures[name]["chosen"])
    write_pages(figures, facts)
    missing = [name for name in steps if name not in figures]
    print(f"not measured: {', '.join(missing)}" if missing else "all is measured")


# --- The weights ------------------------------------------------------------------------------------------------------


def write_weights(run: Path, facts: Mapping[str, Any]) -> None:
    """Writes the model of `run`, its weights in half precision, and its log into the package."""
    model = ViTHybridForImageClassification.from_pretrained(run, dtype=torch.float32)
    model.config.drop_path_rate = 0.0  # of training; a recipe that fine-tunes the model says its own
    model.save_pretrained(ASSETS)  # whose configuration says float32, so that the weights are loaded as such
    write_processor(run)
    halves = {name: weight.half() for name, weight in load_file(ASSETS / WEIGHTS_FILE).items()}
    save_file(halves, ASSETS / WEIGHTS_FILE, metadata={"format": "pt"})
    (ASSETS / WEIGHTS_FILE).chmod(0o644)
    log = {name: facts[name] for name in LOGGED}
    (ASSETS / LOG_FILE).write_text(json.dumps(log, separators=(",", ":")) + "\n", encoding="utf-8")


def write_processor(run: Path, shorter_edge: int | None = None) -> None:
    """Writes how pictures are prepared: as for the run, or with the shorter edge resized to so many pixels first."""
    processor = ViTHybridImageProcessor.from_pretrained(run)
    if shorter_edge is not None:
        processor.size = {"shortest_edge": shorter_edge}
    processor.save_pretrained(ASSETS)


def figures_of_weights() -> Figures:
    """What was measured before of the weights that are in the package now."""
    digest = hashlib.sha256((ASSETS / WEIGHTS_FILE).read_bytes()).hexdigest()
    try:
        figures: Figures = json.loads((ASSETS / FIGURES_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        figures = {}
    return figures if figures.get("weights") == digest else {"weights": digest}


# --- Figures ----------------------------------------------------------------------------------------------------------


def recipes_split(tiny_imagenet: Path) -> Split:
    """The pictures that the recipe trains on, and those that it holds back."""
    recipe = load_recipe(RECIPE)
    return read_splits(tiny_imagenet, leave_out=recipe.leave_out, held_back=held_back_pictures(recipe))


def held_back_part(tiny_imagenet: Path) -> LabeledPictures:
    """The training pictures that the recipe has never trained on."""
    return recipes_split(tiny_imagenet).val


def shorter_edge(run: Path, tiny_imagenet: Path) -> Figures:
    """Top-1 on the held-back pictures by the size that the shorter edge is resized to before the middle is cut out.

    Training sees crops, in which things are larger and softer than in the whole picture.
    """
    pictures = held_back_part(tiny_imagenet)
    top1 = {}
    for edge in EDGES:
        write_processor(run, edge)
        predictor = Predictor.from_pretrained(device="cpu", engine="torch")
        top1[edge] = evaluate(predictor, pictures, strict=True).scores["top1"]
    return {"top1": top1, "chosen": max(EDGES, key=lambda edge: top1[edge])}


def held_back(run: Path, tiny_imagenet: Path) -> Figures:
    """Top-1 on the held-back pictures, of the run's weights and of the package's, which are rounded.

    Raises:
        SystemExit: Rounding has cost accuracy.
    """
    pictures = held_back_part(tiny_imagenet)
    trained = ViTHybridForImageClassification.from_pretrained(run, dtype=torch.float32)
    processor = ViTHybridImageProcessor.from_pretrained(ASSETS)
    predictors = (
        Predictor(trained, processor),
        Predictor.from_pretrained(device="cpu", engine="torch"),
    )
    exact, rounded = (evaluate(predictor, pictures, strict=True) for predictor in predictors)
    found = {
        "images": len(pictures),
        "top1": rounded.scores["top1"],
        "top1_in_float32": exact.scores["top1"],
        "agreement": float(np.equal(exact.logits.argmax(1), rounded.logits.argmax(1)).mean()),
    }
    if found["top1"] < found["top1_in_float32"] - ROUNDING:
        raise SystemExit(f"half precision costs accuracy on the held-back pictures: {found}")
    return found


def validation(tiny_imagenet: Path) -> Figures:
    """Scores on the validation pictures of the classes that the model has learned."""
    found = command("evaluate", BUILT_IN_MODEL, str(tiny_imagenet), "--known-only", "--engine", "torch")
    kept = ("images", "top1", "top5", "expected_calibration_error", "most_confused")
    recalls = {label: row["recall"] for label, row in found["per_class"].items()}
    return {**{name: found[name] for name in kept}, "recall": recalls}


def photographs(folder: Path) -> Figures:
    """Which of the photographs, called by the WordNet ids of their classes, are named rightly."""
    labels = known_labels()
    learned = set(Predictor.from_pretrained(device="cpu", engine="torch").labels)
    paths = [path for path in sorted(folder.iterdir()) if labels.get(path.name.split("_")[0]) in learned]
    ranked = classified([str(path) for path in paths])
    truths = [labels[path.name.split("_")[0]] for path in paths]
    firsts = [ranked[path.name][0]["label"] for path in paths]
    hits = [truth in [one["label"] for one in ranked[path.name]] for path, truth in zip(paths, truths, strict=True)]
    return {
        "images": len(paths),
        "top1": sum(map(str.__eq__, truths, firsts)),
        "top5": sum(hits),
        "first": dict(zip(truths, firsts, strict=True)),
    }


def classified(paths: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What `classify` says of pictures, five labels each, by their names."""
    return {name: record["predictions"] for name, record in said(paths).items()}


def said(paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    """All that `classify` says of pictures, by their names."""
    lines = output("classify", *paths, "--json", "--engine", "torch").splitlines()
    records = [json.loads(line) for line in lines]
    return {Path(record["path"]).name: record for record in records}


def examples() -> list[str]:
    return [str(path) for path in sorted(EXAMPLES.glob("*.jpg"))]


def probe(data: Path) -> Figures:
    """Least squares and nearest neighbors on frozen features, of classes that the model has never seen."""
    found = command("probe", str(data))
    shots = {str(row["shots"]): row["least_squares"]["mean"] for row in found["rows"]}
    return {"top1": found["top1"], "knn_top1": found["knn_top1"], "shots": shots, "images": found["val_images"]}


def fine_tuning(data: Path) -> list[Figures]:
    """The default recipe on the same classes, for each seed."""
    runs = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as place:
            found = command("train", str(data), "--output", str(Path(place, "model")), "--seed", str(seed))
            log = json.loads(Path(place, "model", "metrics.json").read_text(encoding="utf-8"))["log"]
        last = [entry["eval_top1"] for entry in log if "eval_top1" in entry][-1]
        kept = {name: found[name] for name in ("top1", "seconds", "hardware", "validation_images")}
        runs.append({"seed": seed, **kept, "top1_of_last_epoch": last})
        print(runs[-1], flush=True)
    return runs


def accuracy(tiny_imagenet: Path, paths: Sequence[str]) -> list[Figures]:
    """What engines, precisions and token merging do to the decisions on the validation pictures."""
    arguments = [BUILT_IN_MODEL, str(tiny_imagenet), "--paths", *paths]
    lines = run_python(str(ROOT / "benchmarks" / "accuracy.py"), *arguments).splitlines()
    rows: list[Figures] = json.loads(lines[-1])["rows"]
    return rows


def command(name: str, *arguments: str) -> Figures:
    """The one JSON object that a command prints."""
    found: Figures = json.loads(output(name, *arguments, "--json"))
    return found


def output(*arguments: str) -> str:
    """What the command prints; what it says on standard error goes to the terminal."""
    return run_python("-m", "vit_hybrid", *arguments)


def run_python(*arguments: str) -> str:
    print("   ", shlex.join(arguments[-6:]), flush=True)
    return subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


# --- Pages ------------------------------------------------------------------------------------------------------------


def write_pages(figures: Figures, facts: Mapping[str, Any]) -> None:
    """The card and the tables that stand between markers, from what has been measured."""
    model = ViTHybridForImageClassification.from_pretrained(ASSETS)
    (ASSETS / "README.md").write_text(card(model, figures, facts), encoding="utf-8")
    fill(ROOT / "README.md", "in short", in_short(figures))
    fill(ROOT / "docs" / "measured.md", "figures", figures_table(figures))
    fill(ROOT / "docs" / "speed.md", "engines", engines_table(figures))
    fill(ROOT / "docs" / "speed.md", "token merging", merging_table(figures))
    fill(EXAMPLES / "README.md", "examples", examples_table(figures))


def fill(page: Path, name: str, text: str) -> None:
    """Puts `text` between the markers of `name` on a page.

    Raises:
        SystemExit: The page has no such markers.
    """
    begin, end = f"<!-- model in the package: {name} -->\n", f"<!-- end of {name} -->"
    before = page.read_text(encoding="utf-8")
    after, found = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}{text}\n{end}", before, flags=re.S
    )
    if found != 1:
        raise SystemExit(f"{page}: expected one {begin.strip()} with {end} below it, found {found}")
    page.write_text(after, encoding="utf-8")


def in_short(figures: Figures) -> str:
    """What the README says of the model."""
    found = figures["validation"]
    text = (
        f"The model in the package knows {len(found['recall'])} kinds of animals, things, food and places, of Tiny "
        f"ImageNet's: of {found['images']:,} pictures it has never seen it names {percent(found['top1'])} rightly, "
        f"{percent(found['top5'])} among five names."
    )
    if "fine_tuning" in figures:
        mean = np.mean([run["top1"] for run in figures["fine_tuning"]])
        text += f" Fine-tuned on 100 pictures each of ten other kinds it knows {percent(mean)} of these."
    return textwrap.fill(f"{text} [Its card](src/vit_hybrid/assets/README.md) says more.", WIDTH)


def figures_table(figures: Figures) -> str:
    """What is known of the model, a row each with the command."""
    rows = [("what", "how", "figure"), ("---", "---", "---")]
    if "validation" in figures:
        found = figures["validation"]
        rows.append(
            (
                f"Tiny ImageNet's {found['images']:,} validation pictures of the 180 classes, looked at once",
                f"`vit-hybrid evaluate {BUILT_IN_MODEL} tiny-imagenet-200 --known-only`",
                f"{percent(found['top1'])} top-1, {percent(found['top5'])} top-5",
            )
        )
    if "held_back" in figures:
        found = figures["held_back"]
        rows.append(
            (
                f"the {found['images']:,} training pictures that were held back, weights in half precision",
                "`python scripts/release_box_model.py`",
                f"{percent(found['top1'])} top-1; {percent(found['top1_in_float32'])} as trained",
            )
        )
    if "photographs" in figures:
        found = figures["photographs"]
        rows.append(
            (
                "photographs of about 500 x 375 pixels whose class the model has learned",
                "`vit-hybrid classify photos/`",
                f"{found['top1']} of {found['images']}; {found['top5']} among the first five",
            )
        )
    if "fine_tuning" in figures:
        runs = figures["fine_tuning"]
        scores = [run["top1"] for run in runs]
        rows.append(
            (
                f"fine-tuned on ten classes it never saw (1,000 photos), on {runs[0]['validation_images']} others",
                "`vit-hybrid train tinyphotos10 --output OUT`",
                f"{percent(np.mean(scores))} top-1, mean of {len(runs)} seeds ({percent(min(scores))} to "
                f"{percent(max(scores))}), at most {max(run['seconds'] for run in runs) / 60:.1f} minutes on "
                f"{runs[0]['hardware']}",
            )
        )
    if "probe" in figures:
        found = figures["probe"]
        rows.append(
            (
                "a linear probe of the same classes, all pictures; nearest neighbors",
                "`vit-hybrid probe tinyphotos10`",
                f"{percent(found['top1'])} top-1; {percent(found['knn_top1'])}",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def engines_table(figures: Figures) -> str:
    """How often each engine and precision decides as PyTorch in float32."""
    if "engines" not in figures:
        return NOT_YET
    lines = ["| path | decided as in float32 | top-1 |", "|---|---|---|"]
    for row in figures["engines"]:
        lines.append(f"| {row['path']} | {percent(row['agreement'], 2)} | {percent(row['top1'], 2)} |")
    return "\n".join(lines)


def merging_table(figures: Figures) -> str:
    """What merged tokens cost, R of them per layer."""
    if "token_merging" not in figures:
        return NOT_YET
    rows = figures["token_merging"]
    heads = ["none", *map(str, MERGED)]
    return "\n".join(
        [
            f"| R | {' | '.join(heads)} |",
            "|---" * (len(heads) + 1) + "|",
            f"| top-1 | {' | '.join(percent(row['top1'], 2) for row in rows)} |",
            f"| decided as without | | {' | '.join(percent(row['agreement'], 2) for row in rows[1:])} |",
        ]
    )


def examples_table(figures: Figures) -> str:
    """What the model says of the photos in examples/."""
    lines = ["| photo | what the model in the package says |", "|---|---|"]
    for name, ranking in figures.get("examples", {}).items():
        shown = ", ".join(f"{one['label']} {percent(one['probability'])}" for one in ranking[:PREDICTIONS])
        familiar = figures.get("familiar", {}).get(name, 1.0)
        if familiar < DEFAULT_FALSE_ALARMS:
            shown = f"none of these (p = {familiar:.4f}); else {shown}"
        lines.append(f"| `{name}` | {shown} |")
    return "\n".join(lines)


def card(model: ViTHybridForImageClassification, figures: Figures, facts: Mapping[str, Any]) -> str:
    """The model card: `box_model_card.md` with its figures filled in."""
    recipe, found = facts["recipe"], figures["validation"]
    recalls = sorted(found["recall"].items(), key=lambda item: -item[1])
    best, worst = recalls[:10], recalls[-10:]
    confused = [
        f"{pair['truth']} for {pair['predicted']} ({pair['count']} of 50)" for pair in found["most_confused"][:5]
    ]
    text = CARD.read_text(encoding="utf-8").format(
        name=BUILT_IN_MODEL,
        labels=", ".join(found["recall"]),
        classes=len(found["recall"]),
        left_out=", ".join(recipe["leave_out"]),
        parameters=model.num_parameters(),
        megabytes=(ASSETS / WEIGHTS_FILE).stat().st_size / 1e6,
        images=found["images"],
        top1=100 * found["top1"],
        top5=100 * found["top5"],
        calibration=100 * found["expected_calibration_error"],
        **box_confidence.words(figures["trust"], figures["confidence"]),
        table=figures_table(figures),
        best=", ".join(f"{label} ({percent(share, 0)})" for label, share in best),
        worst=", ".join(f"{label} ({percent(share, 0)})" for label, share in worst),
        confused=", ".join(confused),
        schedule=", then ".join(f"{phase['epochs']} epochs at {phase['image_size']} px" for phase in recipe["growing"]),
        depths=", ".join(map(str, model.config.backbone_config.depths)),
        widths=", ".join(map(str, model.config.backbone_config.hidden_sizes)),
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
        hours=facts["seconds"] / 3600,
        torch=facts["versions"]["torch"],
        **{name: facts[name] for name in ("hardware", "finished", "train_images", "validation_images")},
        **{name: recipe[name] for name in ("learning_rate", "adam_learning_rate", "weight_decay", "batch_size")},
        **{name: recipe[name] for name in ("label_smoothing", "seed", "warmup", "epochs", "ema", "drop_path", "color")},
        smallest_crop=recipe["crop_scale"][0],
        edge=figures["shorter_edge"]["chosen"],
        erase=recipe["erase"],
    )
    return "".join(map(wrapped, re.split(r"(?<=\n)(?=\n)", text)))


def wrapped(paragraph: str) -> str:
    """A paragraph in lines of the usual width; tables, headings and the head of the card as they are."""
    if re.match(r"\n*(\||#|---)", paragraph):
        return paragraph
    start = "\n" if paragraph.startswith("\n") else ""
    return f"{start}{textwrap.fill(' '.join(paragraph.split()), WIDTH)}\n"


def percent(share: Any, digits: int = 1) -> str:
    return f"{100 * float(share):.{digits}f} %"


if __name__ == "__main__":
    main()
