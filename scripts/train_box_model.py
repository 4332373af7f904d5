"""Trains the model in the box on CIFAR-10 and measures it on the 10,000 test images.

    python scripts/train_box_model.py train  --output runs/box          # hours on two CPU cores; --resume goes on
    python scripts/train_box_model.py release --run runs/box            # measure, write src/vit_hybrid/assets
    python scripts/train_box_model.py measure                           # measure what is there

The pictures are 32 pixels wide and are shown to the network at 64, so that its stride of 16 leaves 16 tokens. Early
epochs see them smaller (`SIZES`): the position embeddings are interpolated, and an epoch costs a fraction.
Nothing is chosen on the test images; they are looked at once, by `release`.
"""

import argparse
import io
import json
import math
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn.functional import interpolate, pad
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification, ViTHybridImageProcessor

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("VIT_HYBRID_DATA", ROOT.parent / "shared" / "data")) / "cifar10"
ASSETS = ROOT / "src" / "vit_hybrid" / "assets"
CARD = Path(__file__).with_name("box_model_card.md")

LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGE_SIZE = 64
SIZES = {32: 8, 48: 7, 64: 7}  # picture size in pixels: epochs spent at it
SEED = 20
BATCH_SIZE = 250
LEARNING_RATE = 2e-3
WARMUP_SHARE = 0.06
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
PICTURE_SIZE = 32  # CIFAR-10's own, in pixels
SHIFT = 4  # pixels a picture is moved by, of 32
ERASED = 10  # side of the erased square, in pixels of 32
ERASE_PROBABILITY = 0.5


def build_config() -> ViTHybridConfig:
    """A small sibling of R50+B/16: three stages of bottlenecks to stride 16, patches of one cell, three layers."""
    return ViTHybridConfig(
        image_size=IMAGE_SIZE,
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=576,
        backbone_config={
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "embedding_size": 64,
            "hidden_sizes": [128, 320, 512],
            "depths": [2, 4, 3],
            "num_groups": 16,
            "out_features": ["stage3"],
        },
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )


def read_split(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, 32, 32) in uint8 and labels (N) of a split, in file order."""
    table = pq.read_table(DATA / f"{name}.parquet")
    pictures = [
        np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table.column("image").to_pylist()
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), torch.tensor(
        table.column("label").to_pylist()
    )


class Pictures(torch.utils.data.Dataset):
    """Indexes; `Augment` makes whole batches at once, which on a CPU costs a tenth of doing so picture by picture."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


class Augment:
    """Batches of shifted, flipped and partly erased pictures at the size of the current epoch."""

    def __init__(self, pictures: torch.Tensor, labels: torch.Tensor) -> None:
        self.pictures, self.labels = pictures, labels
        self.size = IMAGE_SIZE

    def __call__(self, indices: list[int]) -> dict[str, Any]:
        pictures = self._shift_and_flip(self.pictures[indices].float())
        # Antialiased bicubic has Pillow's coefficients, so that training sees what the image processor will give.
        pictures = interpolate(pictures, size=(self.size, self.size), mode="bicubic", antialias=True).clamp(0, 255)
        pictures = self._erase(pictures / 127.5 - 1.0)
        return {"pixel_values": pictures, "labels": self.labels[indices], "interpolate_pos_encoding": True}

    def _shift_and_flip(self, pictures: torch.Tensor) -> torch.Tensor:
        count, _, height, width = pictures.shape
        padded = pad(pictures, (SHIFT,) * 4, mode="reflect")
        rows = torch.randint(0, 2 * SHIFT + 1, (count, 1)) + torch.arange(height)
        columns = torch.randint(0, 2 * SHIFT + 1, (count, 1)) + torch.arange(width)
        columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
        picture = torch.arange(count)[:, None, None]
        return padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def _erase(self, pictures: torch.Tensor) -> torch.Tensor:
        side = ERASED * self.size // PICTURE_SIZE
        along = torch.arange(self.size)
        top, left = (torch.randint(-side // 2, self.size - side // 2, (len(pictures), 1)) for _ in range(2))
        rows, columns = ((along >= start) & (along < start + side) for start in (top, left))
        chosen = torch.rand(len(pictures), 1, 1) < ERASE_PROBABILITY
        hole = (rows[:, :, None] & columns[:, None, :] & chosen)[:, None]
        return pictures.masked_fill(hole, 0.0)


class GrowPictures(TrainerCallback):
    """Sets the picture size of each epoch, also after a resume."""

    def __init__(self, augment: Augment) -> None:
        self.augment = augment
        self.schedule = [size for size, epochs in SIZES.items() for _ in range(epochs)]

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.augment.size = self.schedule[min(int(state.epoch + 1e-6), len(self.schedule) - 1)]


def train(output: Path, resume: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    set_seed(SEED)
    pictures, labels = read_split("train")
    augment = Augment(pictures, labels)
    epochs = sum(SIZES.values())
    steps = epochs * math.ceil(len(labels) / BATCH_SIZE)
    model = ViTHybridForImageClassification._from_config(build_config(), attn_implementation="eager")
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output),
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="cosine",
            warmup_steps=int(WARMUP_SHARE * steps),
            weight_decay=WEIGHT_DECAY,
            label_smoothing_factor=LABEL_SMOOTHING,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            logging_steps=25,
            save_strategy="epoch",
            save_total_limit=2,
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        ),
        train_dataset=Pictures(len(labels)),
        data_collator=augment,
        callbacks=[GrowPictures(augment)],
    )
    start = time.monotonic()
    trainer.train(resume_from_checkpoint=resume or None)
    trainer.save_model(str(output / "final"))
    facts = {
        "hours": (time.monotonic() - start) / 3600,
        "resumed": resume,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name(),
        "threads": threads,
        "torch": torch.__version__,
        "finished": datetime.now(UTC).strftime("%Y-%m-%d"),
        "log": trainer.state.log_history,
    }
    (output / "final" / "training.json").write_text(json.dumps(facts, indent=1))


def cpu_name() -> str:
    """The processor's own name where Linux tells it, its architecture elsewhere."""
    facts = Path("/proc/cpuinfo")
    for line in facts.read_text().splitlines() if facts.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@torch.no_grad()
def measure(model: ViTHybridForImageClassification, processor: ViTHybridImageProcessor) -> dict[str, Any]:
    """Top-1 and top-5 on the test images, read, resized and normalized as a user's pictures are."""
    table = pq.read_table(DATA / "test.parquet")
    truth = np.array(table.column("label").to_pylist())
    pictures = [Image.open(io.BytesIO(row["bytes"])) for row in table.column("image").to_pylist()]
    ranked = []
    for start in range(0, len(pictures), BATCH_SIZE):
        batch = processor(pictures[start : start + BATCH_SIZE], return_tensors="pt")
        ranked.append(model(**batch).logits.argsort(-1, descending=True).numpy())
    order = np.concatenate(ranked)
    return {
        "images": len(truth),
        "top1": float((order[:, 0] == truth).mean()),
        "top5": float((order[:, :5] == truth[:, None]).any(1).mean()),
        "per_class": {label: float((order[truth == index, 0] == index).mean()) for index, label in enumerate(LABELS)},
    }


def release(run: Path, assets: Path) -> None:
    model = ViTHybridForImageClassification.from_pretrained(run / "final", dtype=torch.float32)
    model.fold_weight_standardization()
    half = [0.5, 0.5, 0.5]
    processor = ViTHybridImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=half,
        image_std=half,
    )
    metrics = measure(model, processor)
    assets.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(assets)
    processor.save_pretrained(assets)
    facts = json.loads((run / "final" / "training.json").read_text())
    (assets / "training_log.json").write_text(json.dumps({"seed": SEED, **facts}, indent=1) + "\n")
    (assets / "README.md").write_text(model_card(model, metrics, facts))
    print(json.dumps(metrics))


def model_card(model: ViTHybridForImageClassification, metrics: dict[str, Any], facts: dict[str, Any]) -> str:
    per_class = metrics["per_class"].items()
    return CARD.read_text().format(
        labels=", ".join(LABELS),
        parameters=sum(weight.numel() for weight in model.parameters()),
        images=metrics["images"],
        top1=100 * metrics["top1"],
        top5=100 * metrics["top5"],
        classes="\n".join(f"| {label} | {100 * accuracy:.1f} % |" for label, accuracy in per_class),
        schedule=", then ".join(f"{epochs} epochs at {size} px" for size, epochs in SIZES.items()),
        learning_rate=LEARNING_RATE,
        warmup=WARMUP_SHARE,
        weight_decay=WEIGHT_DECAY,
        batch_size=BATCH_SIZE,
        label_smoothing=LABEL_SMOOTHING,
        seed=SEED,
        shift=SHIFT,
        erased=ERASED,
        **facts,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train, with a checkpoint each epoch")
    training.add_argument("--output", type=Path, default=ROOT / "runs" / "box")
    training.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --output")
    training.add_argument("--threads", type=int, default=torch.get_num_threads())
    releasing = commands.add_parser("release", help="measure on the test images and write the package's assets")
    releasing.add_argument("--run", type=Path, default=ROOT / "runs" / "box")
    releasing.add_argument("--assets", type=Path, default=ASSETS)
    measuring = commands.add_parser("measure", help="measure a saved model on the test images, and print the figures")
    measuring.add_argument("--model", type=Path, default=ASSETS)
    options = parser.parse_args()
    if options.command == "train":
        train(options.output, options.resume, options.threads)
    elif options.command == "release":
        release(options.run, options.assets)
    else:
        model = ViTHybridForImageClassification.from_pretrained(options.model, dtype=torch.float32)
        processor = ViTHybridImageProcessor.from_pretrained(options.model)
        print(json.dumps(measure(model.fold_weight_standardization(), processor)))


if __name__ == "__main__":
    main()
