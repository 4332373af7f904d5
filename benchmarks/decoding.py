"""How fast picture files become the model's input, exactly and in faster ways, and how far the latter deviate.

    python benchmarks/decoding.py [FOLDER] [--sizes 384 224 64] [--mosaic 8] [--threads 1 2]

FOLDER holds pictures; by default it is ``photos`` in the folder named by VIT_HYBRID_DATA (``../shared/data``, where
that is not set). They are resized to a shortest edge, cropped to a square, rescaled and normalized; one thread, one
picture a call, and all contenders take turns. What counts is processor time, the best turn's, so that other work on the
machine does not. Deviations are those from `open_image` and `Preprocessing`, in levels of 0..255. Contenders whose
library is not installed are left out. ``--mosaic N`` puts N by N of the pictures together into one JPEG file, as large
as a camera's photo; ``--threads`` adds throughput by the clock in several threads. Prints tables, then one JSON line.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vit_hybrid.images.fast import DRAFT_MARGIN, Draft, FastPreprocessing, open_draft
from vit_hybrid.images.preprocessing import Preprocessing, crop_span, resize, resized_size
from vit_hybrid.images.reading import open_image

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("VIT_HYBRID_DATA") or ROOT.parent / "shared" / "data")
LEVELS = 127.5  # of 0..255 in a unit of the input: mean and standard deviation are 0.5
MARGINS = (1.0, 1.5, DRAFT_MARGIN)
TILE = (500, 375)  # of a mosaic
MOSAIC_QUALITY = 90
EXACT = "exact"

Preparation = Callable[[Any], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DATA / "photos", help="a folder of pictures")
    parser.add_argument("--sizes", type=int, nargs="+", default=[384, 224, 64], help="pixels of an edge of the input")
    parser.add_argument("--mosaic", type=int, metavar="N", help="one picture of N by N of them in their place")
    parser.add_argument(
        "--threads", type=int, nargs="*", default=[], help="numbers of threads to measure throughput in"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        parser.error(f"no folder of pictures at {arguments.folder}; VIT_HYBRID_DATA names another place of the photos")
    files = [path.read_bytes() for path in sorted(arguments.folder.iterdir()) if path.is_file()]
    if arguments.mosaic:
        files = [mosaic(files, arguments.mosaic)]
    os.environ["RAYON_NUM_THREADS"] = "1"  # kornia-rs asks for it when it first needs threads
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        rows += compare(files, size, arguments.rounds, arguments.threads)
    print(json.dumps({"benchmark": "decoding", "pictures": len(files), "mosaic": arguments.mosaic, "rows": rows}))


def mosaic(files: Sequence[bytes], edge: int) -> bytes:
    """One JPEG file of edge x edge of the pictures, each 500 x 375 pixels."""
    pictures = [open_image(file).convert("RGB").resize(TILE) for file in files[: edge * edge]]
    whole = Image.new("RGB", (edge * TILE[0], edge * TILE[1]))
    for index in range(edge * edge):
        place = index % edge * TILE[0], index // edge * TILE[1]
        whole.paste(pictures[index % len(pictures)], place)
    buffer = io.BytesIO()
    whole.save(buffer, "JPEG", quality=MOSAIC_QUALITY)
    return buffer.getvalue()


def compare(files: Sequence[bytes], size: int, rounds: int, threads: Sequence[int]) -> list[dict[str, Any]]:
    """Print the tables of one size; a row for each contender."""
    steps = Preprocessing(size=size, crop_size=(size, size), image_mean=(0.5,) * 3, image_std=(0.5,) * 3)
    fast = FastPreprocessing(steps)
    pictures = [open_image(file).convert("RGB") for file in files]
    alone = preparations(steps)
    whole: dict[str, Preparation] = {
        EXACT: lambda file: steps([open_image(file)]),
        "FastPreprocessing": lambda file: fast([open_image(file)]),
    }
    for margin in MARGINS:
        whole[f"and open_draft, margin {margin:g}"] = partial(draft, steps, fast, margin)

    rows: list[dict[str, Any]] = []
    for title, contenders, inputs in (
        ("decoded pictures", alone, pictures),
        ("files, with decoding", whole, files),
    ):
        print(f"{len(inputs)} {title} to {size} px:\n")
        print(f"{'':32}{'pictures/s':>11}{'ratio':>7}{'largest':>9}{'mean':>9}{'scaled':>8}")
        seconds = race(contenders, inputs, rounds)
        expected = [contenders[EXACT](item) for item in inputs]
        for name, prepare in contenders.items():
            apart = [np.abs(prepare(item) - exact) * LEVELS for item, exact in zip(inputs, expected, strict=True)]
            scaled = None
            if "margin" in name:
                margin = float(name.split()[-1])
                scaled = sum(Draft.KEY in open_draft(item, steps, margin=margin).info for item in inputs)
            row = {
                "size": size,
                "what": title,
                "contender": name,
                "pictures_per_second": round(len(inputs) / seconds[name], 1),
                "ratio": round(seconds[EXACT] / seconds[name], 2),
                "largest_deviation": round(float(max(values.max() for values in apart)), 1),
                "mean_deviation": round(float(np.mean([values.mean() for values in apart])), 5),
                "scaled": scaled,
            }
            rows.append(row)
            print(
                f"{name:32}{row['pictures_per_second']:11.1f}{row['ratio']:7.2f}{row['largest_deviation']:9.1f}"
                f"{row['mean_deviation']:9.5f}{'' if scaled is None else scaled:>8}"
            )
        print()
    for number in threads:
        names = (EXACT, f"and open_draft, margin {DRAFT_MARGIN:g}")
        rates = throughput({name: whole[name] for name in names}, files, rounds, number)
        print(
            f"in {number} threads, by the clock: " + ", ".join(f"{name} {rate:.0f}/s" for name, rate in rates.items())
        )
        rows.append({"size": size, "threads": number, "pictures_per_second": rates})
    print()
    return rows


def draft(steps: Preprocessing, fast: FastPreprocessing, margin: float, file: bytes) -> np.ndarray:
    return fast([open_draft(file, steps, margin=margin)])


def preparations(steps: Preprocessing) -> dict[str, Preparation]:
    """Ways from a decoded RGB picture to the input (1, 3, H, W)."""
    edge = steps.crop_size[0]
    fast = FastPreprocessing(steps)
    used = np.zeros((1, 3, edge, edge), np.float32)
    found: dict[str, Preparation] = {
        EXACT: lambda picture: steps([picture]),
        "Pillow, reducing_gap=2": lambda picture: finished(resize(picture, edge, Image.BICUBIC, 2.0), edge),
        "Pillow, box=crop": partial(boxed, edge=edge),
    }
    if importlib.util.find_spec("kornia_rs"):
        found["kornia-rs"] = partial(by_kornia, edge=edge)
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        found["torch, uint8"] = partial(by_torch, edge=edge)
    found["FastPreprocessing"] = lambda picture: fast([picture])
    found["FastPreprocessing, out=..."] = lambda picture: fast([picture], out=used)
    return found


def finished(resized: Image.Image | np.ndarray, edge: int) -> np.ndarray:
    """Crop, rescale and normalize a resized picture, or an array (H, W, 3), into (1, 3, edge, edge)."""
    result = np.empty((1, 3, edge, edge), np.float32)
    if isinstance(resized, Image.Image):
        top, bottom = crop_span(resized.height, edge)
        left, right = crop_span(resized.width, edge)
        planes = [np.asarray(channel) for channel in resized.crop((left, top, right, bottom)).split()]
    else:
        (top, bottom), (left, right) = (crop_span(length, edge) for length in resized.shape[:2])
        planes = [resized[top:bottom, left:right, channel] for channel in range(3)]
    for plane, values in zip(planes, result[0], strict=True):
        np.multiply(plane, np.float32(1 / LEVELS), out=values)
        values -= 1
    return result


def boxed(picture: Image.Image, edge: int) -> np.ndarray:
    """Pillow's `box` around what the crop leaves; its corners are rounded to single precision."""
    height, width = resized_size(picture.height, picture.width, edge)
    (top, bottom), (left, right) = crop_span(height, edge), crop_span(width, edge)
    across, down = picture.width / width, picture.height / height
    box = (left * across, top * down, right * across, bottom * down)
    return finished(picture.resize((edge, edge), Image.BICUBIC, box=box), edge)


def by_kornia(picture: Image.Image, edge: int) -> np.ndarray:
    """kornia-rs' bicubic, which is antialiased; its bilinear is not."""
    from kornia_rs import imgproc

    size = resized_size(picture.height, picture.width, edge)
    return finished(imgproc.resize(np.asarray(picture), size, "bicubic", antialias=True), edge)


def by_torch(picture: Image.Image, edge: int) -> np.ndarray:
    """torch's antialiased bicubic of 8-bit levels, which has vector instructions of its own for channels last."""
    import torch

    size = resized_size(picture.height, picture.width, edge)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)
    (top, bottom), (left, right) = (crop_span(length, edge) for length in size)
    values = resized[..., top:bottom, left:right].to(torch.float32, memory_format=torch.contiguous_format)
    return values.mul_(1 / LEVELS).sub_(1).numpy()


def race(contenders: dict[str, Preparation], inputs: Sequence[Any], rounds: int) -> dict[str, float]:
    """Seconds of processor time for all inputs: the best turn of each contender."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds + 1):  # one to warm up, which is hardly the best
        for name, prepare in contenders.items():
            start = time.process_time()
            for item in inputs:
                prepare(item)
            best[name] = min(best[name], time.process_time() - start)
    return best


def throughput(
    contenders: dict[str, Preparation], files: Sequence[bytes], rounds: int, threads: int
) -> dict[str, float]:
    """Pictures a second by the clock in so many threads: the best turn of each contender."""
    best = dict.fromkeys(contenders, float("inf"))
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            for name, prepare in contenders.items():
                start = time.perf_counter()
                list(pool.map(prepare, files))
                best[name] = min(best[name], time.perf_counter() - start)
    return {name: round(len(files) / seconds, 1) for name, seconds in best.items()}


if __name__ == "__main__":
    main()
