"""Time one forward pass of R50+B/16 on the CPU: this package, plain and folded, against transformers 4.49.

    python benchmarks/forward.py --legacy legacy/bin/python --batch-size 1 8

`--legacy` names a Python with transformers 4.49.0; without it only this package is timed. Every contender runs in a
process of its own, with the same random weights and pixels as the others, and takes its turn in each round, so that a
busy moment of the machine strikes all alike. Prints a table, and one line of JSON with the same numbers in seconds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

THREADS = 2
REPETITIONS = 9
WARM_UP_ROUNDS = 2
PAUSE = 0.05  # seconds between two turns, until the threads of the one before have stopped spinning
WEIGHT_SCALE = 0.02  # standard deviation of the random weights, the one new models have
SAME = 1e-3  # contenders whose logits are further apart than this, relative to the largest, do not do the same work

# Fields of the configuration. The feature map's shape is stated because 4.49 cannot derive it.
SIZES: dict[str, dict[str, Any]] = {
    "r50-b16": {"image_size": 384, "backbone_featmap_shape": [1, 1024, 24, 24], "num_labels": 1000},
    "tiny": {  # only to see that the benchmark runs
        "image_size": 32,
        "backbone_featmap_shape": [1, 16, 8, 8],
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "backbone_config": {
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "embedding_size": 8,
            "hidden_sizes": [16],
            "depths": [1],
            "num_groups": 4,
        },
    },
}

# What a worker is started as, and its name in the table.
CONTENDERS = {"plain": "vit_hybrid sdpa", "folded": "vit_hybrid sdpa, folded", "legacy": "transformers 4.49 sdpa"}


def make_model(contender: str, size: str) -> torch.nn.Module:
    """The contender's model in evaluation mode, with weights that depend on nothing but the names."""
    if contender == "legacy":
        import transformers as library

        options = {}  # 4.49 picks sdpa by itself, and refuses to be asked for it
    else:
        import vit_hybrid as library

        options = {"attn_implementation": "sdpa"}
    model = library.ViTHybridForImageClassification(library.ViTHybridConfig(**SIZES[size], **options)).eval()
    if model.config._attn_implementation != "sdpa":
        raise RuntimeError(f"{contender} runs {model.config._attn_implementation!r} attention; sdpa is to be timed")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, tensor in sorted(model.state_dict().items()):
            if tensor.ndim > 1:  # norms and biases stay neutral
                tensor.normal_(std=WEIGHT_SCALE, generator=generator)
    return model.fold_weight_standardization() if contender == "folded" else model


def work(contender: str, size: str, threads: int) -> None:
    """A worker: for each batch size on standard input, one timed forward pass and a line of JSON on standard output."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not end up among the replies
    torch.set_num_threads(threads)
    model = make_model(contender, size)
    side = model.config.image_size
    print(json.dumps({"torch": torch.__version__}), file=replies, flush=True)
    for line in sys.stdin:
        batch_size = int(line)
        pixels = torch.randn(batch_size, 3, side, side, generator=torch.Generator().manual_seed(batch_size))
        with torch.no_grad():
            start = time.perf_counter()
            logits = model(pixels).logits
            seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "logits": logits[0].tolist()}), file=replies, flush=True)


class Worker:
    """A contender's process."""

    def __init__(self, python: str, contender: str, size: str, threads: int) -> None:
        command = [python, __file__, "--worker", contender, "--size", size, "--threads", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.contender = contender
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.torch = self._reply()["torch"]

    def _reply(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {CONTENDERS[self.contender]!r} ended; its message stands above")
        return json.loads(line)

    def run(self, batch_size: int) -> dict[str, Any]:
        """One forward pass: its `seconds`, and the first image's `logits`."""
        self.process.stdin.write(f"{batch_size}\n")
        self.process.stdin.flush()
        return self._reply()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def deviation(found: list[float], expected: list[float]) -> float:
    """Largest difference of two lists of logits, relative to the largest of `expected`."""
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) / max(map(abs, expected))


def race(workers: list[Worker], batch_size: int, repetitions: int) -> list[dict[str, Any]]:
    """All workers in turn, round after round; one row of results for each.

    Raises:
        RuntimeError: If two contenders give different logits.
    """
    seconds: dict[str, list[float]] = {worker.contender: [] for worker in workers}
    logits: dict[str, list[float]] = {}
    for turn in range(WARM_UP_ROUNDS + repetitions):
        for worker in workers:
            time.sleep(PAUSE)
            reply = worker.run(batch_size)
            logits[worker.contender] = reply["logits"]
            if turn >= WARM_UP_ROUNDS:
                seconds[worker.contender].append(reply["seconds"])
    reference = workers[-1].contender
    rows = []
    for worker in workers:
        apart = deviation(logits[worker.contender], logits[reference])
        if not apart <= SAME:
            raise RuntimeError(f"{worker.contender} and {reference} give logits that are {apart:.1e} apart")
        times = seconds[worker.contender]
        rows.append(
            {
                "contender": CONTENDERS[worker.contender],
                "batch_size": batch_size,
                "min": min(times),
                "median": statistics.median(times),
                "deviation": apart,
            }
        )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """The rows for people; the ratio is to the last contender's time at the same batch size."""
    print(f"{'':26}{'batch':>6}{'min s':>10}{'median s':>10}{'ratio':>8}{'deviation':>11}")
    for row in rows:
        last = [other for other in rows if other["batch_size"] == row["batch_size"]][-1]
        print(
            f"{row['contender']:26}{row['batch_size']:>6}{row['min']:>10.4f}{row['median']:>10.4f}"
            f"{row['min'] / last['min']:>8.2f}{row['deviation']:>11.1e}"
        )


def main() -> None:
    """Parse, start the workers, race, print."""
    parser = argparse.ArgumentParser(description="Time R50+B/16 on the CPU against transformers 4.49.")
    parser.add_argument("--legacy", metavar="PYTHON", help="interpreter with transformers 4.49.0 to compare with")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1], help="batch sizes (1)")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help=f"timed rounds ({REPETITIONS})")
    parser.add_argument("--threads", type=int, default=THREADS, help=f"threads of a contender ({THREADS})")
    parser.add_argument("--size", choices=SIZES, default="r50-b16", help="model (r50-b16); tiny is for trying this out")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)  # what a contender's process is given
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.size, arguments.threads)
        return

    pythons = {"plain": sys.executable, "folded": sys.executable}
    if arguments.legacy:
        pythons["legacy"] = arguments.legacy
    workers = []
    try:
        for name, python in pythons.items():
            workers.append(Worker(python, name, arguments.size, arguments.threads))
        rows = [row for batch in arguments.batch_size for row in race(workers, batch, arguments.repetitions)]
        settings = {"size": arguments.size, "threads": arguments.threads, "repetitions": arguments.repetitions}
        versions = {CONTENDERS[worker.contender]: worker.torch for worker in workers}
    finally:
        for worker in workers:
            worker.close()
    print_table(rows)
    print(json.dumps({"benchmark": "forward", **settings, "torch": versions, "rows": rows}))


if __name__ == "__main__":
    main()
