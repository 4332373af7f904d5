"""Segmentation with a hybrid as the backbone: a U-shaped decoder whose skips are the ResNet's stages, as in TransUNet
(Chen et al., arXiv 2102.04306, section 3.2), trained on shapes that are made up as it goes.

    python examples/segment.py --output shapes

It starts from the model in the package and reaches a Dice of 0.9 on pictures that it was not trained on, within five
minutes on two cores; `--output` gets some of them, with their shapes and what the model makes of them beside them.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from vit_hybrid import ViTHybridBackbone
from vit_hybrid.checkpoints import opening

CLASSES = ("background", "ellipse", "rectangle", "triangle")
COLORS = np.array([(0, 0, 0), (230, 80, 60), (70, 170, 90), (70, 110, 220)], np.uint8)
SHAPES_IN_A_PICTURE = (1, 3)
HELD_OUT_SEED = 10**6  # far from those of training, which count up from 0


def made_picture(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (3, size, size) from -1 to 1 with shapes on a rough ground, and its classes (size, size)."""
    draws = np.random.default_rng(seed)
    coarse = draws.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    classes = Image.new("L", (size, size))
    for _ in range(draws.integers(SHAPES_IN_A_PICTURE[0], SHAPES_IN_A_PICTURE[1] + 1)):
        kind = int(draws.integers(1, len(CLASSES)))
        width, height = draws.integers(size // 4, size // 2, 2).tolist()
        left, top = int(draws.integers(0, size - width)), int(draws.integers(0, size - height))
        color = tuple(draws.integers(0, 256, 3).tolist())
        for canvas, fill in ((picture, color), (classes, kind)):
            draw, box = ImageDraw.Draw(canvas), (left, top, left + width, top + height)
            if CLASSES[kind] == "ellipse":
                draw.ellipse(box, fill=fill)
            elif CLASSES[kind] == "rectangle":
                draw.rectangle(box, fill=fill)
            else:
                draw.polygon([(left + width // 2, top), (left, top + height), (left + width, top + height)], fill=fill)
    noisy = np.asarray(picture, np.float32) + draws.normal(0, 8, (size, size, 3))
    return (noisy.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32), np.asarray(classes, np.int64)


def batch_of(seeds: range, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, size, size) and their classes (N, size, size)."""
    pictures, classes = zip(*(made_picture(seed, size) for seed in seeds), strict=True)
    return torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(classes))


class Up(nn.Module):
    """Twice or more the size, a skip beside it where there is one, and two convolutions."""

    def __init__(self, channels: int, skipped: int, out_channels: int) -> None:
        super().__init__()
        widths = (channels + skipped, out_channels, out_channels)
        self.layers = nn.Sequential()
        for before, after in itertools.pairwise(widths):
            self.layers.extend((nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.ReLU()))

    def forward(self, features: torch.Tensor, size: torch.Size, skip: torch.Tensor | None = None) -> torch.Tensor:
        features = nn.functional.interpolate(features, size=size, mode="bilinear", align_corners=False)
        return self.layers(features if skip is None else torch.cat((features, skip), dim=1))


class Segmenter(nn.Module):
    """Pixels (N, 3, height, width) to logits of classes (N, classes, height, width)."""

    def __init__(self, backbone: ViTHybridBackbone, num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        *skipped, deepest = backbone.channels
        self.ups = nn.ModuleList()
        for channels in reversed(skipped):
            self.ups.append(Up(deepest, channels, width))
            deepest = width
        self.last = Up(width, 3, width // 2)
        self.classifier = nn.Conv2d(width // 2, num_classes, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        *skips, features = self.backbone(pixels).feature_maps
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            features = up(features, skip.shape[-2:], skip)
        return self.classifier(self.last(features, pixels.shape[-2:], pixels))


def segmenter(model: str) -> Segmenter:
    """What the door opens as `model`, with a new decoder: from the encoder's last layer up by each of the stages."""
    source = opening.open(model, random_weights=True)
    names = source.config.feature_names
    stages = [name for name in names if name.startswith("stage")]
    return Segmenter(source.backbone(dtype="float32", out_features=[*stages, names[-1]]), len(CLASSES))


def soft_dice(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Dice of the shapes' probabilities, 1 where they are all right: the mean over shapes, the background left out."""
    probabilities = logits.softmax(dim=1)[:, 1:]
    right = nn.functional.one_hot(classes, logits.shape[1]).movedim(-1, 1)[:, 1:]
    both = (probabilities * right).sum(dim=(0, 2, 3))
    return ((2 * both + 1) / (probabilities.sum(dim=(0, 2, 3)) + right.sum(dim=(0, 2, 3)) + 1)).mean()


@torch.no_grad()
def dice(model: Segmenter, size: int, pictures: int = 128) -> float:
    """Dice of the shapes on pictures that were not trained on, counted over all their pixels."""
    model.eval()
    both, either = torch.zeros(len(CLASSES)), torch.zeros(len(CLASSES))
    for start in range(0, pictures, 32):
        pixels, classes = batch_of(range(HELD_OUT_SEED + start, HELD_OUT_SEED + min(start + 32, pictures)), size)
        found = model(pixels).argmax(dim=1)
        for index in range(len(CLASSES)):
            given, right = found == index, classes == index
            both[index] += (given & right).sum()
            either[index] += given.sum() + right.sum()
    return float((2 * both[1:] / either[1:].clamp(min=1)).mean())


def train(model: Segmenter, size: int, steps: int, batch_size: int, rate: float = 2e-3) -> Iterator[float]:
    """Trains, and yields each step's loss: cross-entropy and what soft Dice lacks of 1."""
    # What is trained already moves by small steps, what is new by large ones.
    groups = [
        {"params": list(model.backbone.parameters()), "lr": rate / 4},
        {"params": [weight for name, weight in model.named_parameters() if not name.startswith("backbone.")]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps + 1, pct_start=0.1
    )
    for step in range(steps):
        model.train()
        pixels, classes = batch_of(range(step * batch_size, (step + 1) * batch_size), size)
        logits = model(pixels)
        loss = nn.functional.cross_entropy(logits, classes) + 1 - soft_dice(logits, classes)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([weight for weight in model.parameters() if weight.grad is not None], 1.0)
        optimizer.step()
        schedule.step()
        yield loss.item()


@torch.no_grad()
def write_pictures(model: Segmenter, size: int, folder: Path, pictures: int = 8) -> None:
    """Rows of a picture, its shapes and what the model finds, as `folder/N.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, classes = batch_of(range(HELD_OUT_SEED, HELD_OUT_SEED + pictures), size)
    found = model.eval()(pixels).argmax(dim=1)
    for index in range(pictures):
        picture = ((pixels[index].numpy().transpose(1, 2, 0) + 1) * 127.5).clip(0, 255).astype(np.uint8)
        row = np.concatenate((picture, COLORS[classes[index].numpy()], COLORS[found[index].numpy()]), axis=1)
        Image.fromarray(row).resize((3 * 4 * size, 4 * size), Image.Resampling.NEAREST).save(folder / f"{index}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-hybrid-tiny-imagenet", help="a folder, a hub id, or any other name")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--output", type=Path, help="a folder for pictures of what comes out")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = segmenter(arguments.model)
    start = time.monotonic()
    for step, loss in enumerate(train(model, arguments.size, arguments.steps, arguments.batch_size), start=1):
        if step % 100 == 0 or step == arguments.steps:
            reached = dice(model, arguments.size)
            print(f"step {step}: loss {loss:.3f}, Dice {reached:.3f}, {time.monotonic() - start:.0f} s", flush=True)
    if arguments.output is not None:
        write_pictures(model, arguments.size, arguments.output)
        print(f"pictures in {arguments.output}")


if __name__ == "__main__":
    main()
