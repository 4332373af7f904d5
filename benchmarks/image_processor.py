"""How fast the image processor is, beside the one of transformers 4.49: decoded photos to a batch of tensors.

    python -m venv legacy
    legacy/bin/pip install transformers==4.49.0 torch==2.13.0 pillow numpy
    python benchmarks/image_processor.py --legacy legacy/bin/python

One process per environment, one thread each, taking turns, so that what else the machine does falls on both. The photos
are those in ``photos`` of the folder named by VIT_HYBRID_DATA (``../shared/data``, where it is not set), decoded
beforehand. Prints a table, then one JSON line. On two otherwise idle cores of an x86 server the ratio is above 2.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("VIT_HYBRID_DATA") or ROOT.parent / "shared" / "data")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def work(photos: Path, size: int, batch: int, results: Path) -> None:
    """Runs in either environment: for each line of standard input, preprocess all photos and print the seconds."""
    import numpy as np
    from PIL import Image

    try:
        from transformers import ViTHybridImageProcessor  # 4.49
    except ImportError:
        from vit_hybrid import ViTHybridImageProcessor

    images = [Image.open(path).convert("RGB") for path in sorted(photos.iterdir())]
    batches = [images[start : start + batch] for start in range(0, len(images), batch)]
    processor = ViTHybridImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    np.save(results, np.concatenate([processor(images, return_tensors="np")["pixel_values"] for images in batches]))
    print(len(images), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for images in batches:
            processor(images, return_tensors="pt")
        print(time.perf_counter() - start, flush=True)


class Worker:
    """This file in another interpreter, waiting for its turns."""

    def __init__(self, python: str, photos: Path, size: int, batch: int, results: Path) -> None:
        self.python, self.results = python, results
        command = [python, __file__, "--worker", str(results), "--size", str(size), "--batch", str(batch)]
        self.process = subprocess.Popen(
            [*command, "--photos", str(photos)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )
        self.images = int(self._answer())
        self.seconds: list[float] = []

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.python} ended with status {self.process.wait()}")
        return line

    def take_turn(self) -> None:
        stdin: IO[str] | None = self.process.stdin
        assert stdin is not None
        stdin.write("\n")
        stdin.flush()
        self.seconds.append(float(self._answer()))

    def rates(self) -> dict[str, float]:
        """Images per second, of the fastest turn and of the median one."""
        return {
            "best": round(self.images / min(self.seconds), 1),
            "median": round(self.images / statistics.median(self.seconds), 1),
        }


def compare(legacy: str, photos: Path, size: int, batch: int, rounds: int) -> dict[str, Any]:
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        workers = {
            "transformers 4.49": Worker(legacy, photos, size, batch, Path(folder, "legacy.npy")),
            "vit-hybrid": Worker(sys.executable, photos, size, batch, Path(folder, "ours.npy")),
        }
        try:
            for _ in range(rounds):
                for worker in workers.values():
                    worker.take_turn()
            expected, result = (np.load(worker.results) for worker in workers.values())
        finally:
            for worker in workers.values():
                worker.process.communicate()
    rates = {name: worker.rates() for name, worker in workers.items()}
    old, new = rates.values()
    return {
        "benchmark": "image_processor",
        "images": len(result),
        "size": size,
        "batch": batch,
        "rounds": rounds,
        "images_per_second": rates,
        "ratio": {key: round(new[key] / old[key], 2) for key in new},
        "largest_difference": float(np.abs(result - expected).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legacy", help="the Python of an environment with transformers 4.49")
    parser.add_argument("--photos", type=Path, default=DATA / "photos", help="a folder of pictures")
    parser.add_argument("--size", type=int, default=384, help="shortest edge and crop, in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images a call")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each environment")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.photos, arguments.size, arguments.batch, arguments.worker)
        return
    if not arguments.legacy:
        parser.error("--legacy is needed: the Python of an environment with transformers 4.49")
    if not arguments.photos.is_dir():
        parser.error(f"no folder of photos at {arguments.photos}; --photos or VIT_HYBRID_DATA names another place")
    report = compare(arguments.legacy, arguments.photos, arguments.size, arguments.batch, arguments.rounds)
    print(f"{report['images']} photos to {report['size']} px, {report['batch']} a call, one thread, images a second:\n")
    print(f"{'':20}{'best':>8}{'median':>8}")
    for name, rates in report["images_per_second"].items():
        print(f"{name:20}{rates['best']:8.1f}{rates['median']:8.1f}")
    print(f"{'ratio':20}{report['ratio']['best']:8.2f}{report['ratio']['median']:8.2f}")
    print(f"\nlargest difference {report['largest_difference']:.1e}\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
