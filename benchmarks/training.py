"""Time a training step of R26+S/32 on the CPU, and the memory it takes: this package against transformers 4.49.

    python benchmarks/training.py --legacy legacy/bin/python --precision f32 bf16

`--legacy` names a Python with transformers 4.49.0 and accelerate; without it only this package is timed. Every
contender runs transformers' own `Trainer`, with the same settings, weights and batches as the others, in a process of
its own, and is halted between two steps: they take turns, so that a busy moment of the machine strikes all alike. A
step is what Trainer does from one batch to the next: forward and backward pass (bfloat16 by autocast), clipping, AdamW.

The one contender with other settings is `train`: the same Trainer with the attention and the optimizer that
`vit-hybrid train` picks. Memory is the process's highest during a step, above what it held before it made the model,
since that is a matter of the libraries that happen to be installed; `whole MB` includes it. Prints a table, and one
line of JSON with the same numbers in seconds and megabytes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

THREADS = 1
BATCH_SIZE = 16
REPETITIONS = 7
WARM_UP_ROUNDS = 2  # AdamW's averages are made in the first step
PAUSE = 0.05  # seconds between two turns, until the threads of the one before have stopped spinning
NUM_LABELS = 1000
STEPS = 10**6  # more than anyone will ask for
SAME = {"f32": 1e-3, "bf16": 3e-2}  # contenders whose losses are further apart in proportion do not do the same work
MEGABYTE = 10**6
KIBIBYTE = 1024
STATUS, CLEAR_REFERENCES, CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs"), "5"  # see proc(5)

# Fields of the configuration; what is not stated is the same by default in both. The feature map's shape is stated
# because 4.49 cannot derive it.
SIZES: dict[str, dict[str, Any]] = {
    "r26-s32": {
        "image_size": 224,
        "patch_size": 1,
        "backbone_featmap_shape": [1, 2048, 7, 7],
        "hidden_size": 384,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
        "num_labels": NUM_LABELS,
        "backbone_config": {
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "depths": [2, 2, 2, 2],
            "out_features": ["stage4"],
        },
    },
    "tiny": {  # only to see that the benchmark runs
        "image_size": 32,
        "backbone_featmap_shape": [1, 16, 8, 8],
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "num_labels": NUM_LABELS,
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
CONTENDERS = {
    "train": "vit_hybrid as `train` runs it",
    "plain": "vit_hybrid sdpa",
    "legacy": "transformers 4.49 sdpa",
}


class Pictures(torch.utils.data.Dataset):
    """Random pixels with random labels, the same for every contender."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __len__(self) -> int:
        return STEPS * BATCH_SIZE

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = torch.randn(3, self.side, self.side, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": pixels, "labels": index % NUM_LABELS}


def status(field: str) -> int:
    """One of the kernel's figures on this process's memory, in bytes."""
    return next(int(line.split()[1]) * KIBIBYTE for line in STATUS.read_text().splitlines() if line.startswith(field))


def make_model(contender: str, size: str) -> torch.nn.Module:
    """The contender's model, with weights that depend on nothing but the names; attention as Trainer would get it."""
    if contender == "legacy":
        import transformers as library
    else:
        import vit_hybrid as library
    model = library.ViTHybridForImageClassification(library.ViTHybridConfig(**SIZES[size]))
    if model.config._attn_implementation != "sdpa":
        raise RuntimeError(f"{contender} runs {model.config._attn_implementation!r} attention; sdpa is to be timed")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, tensor in sorted(model.state_dict().items()):
            if tensor.ndim > 1:  # norms and biases stay neutral
                tensor.normal_(std=model.config.initializer_range, generator=generator)
    return model


def as_train_does(model: torch.nn.Module, arguments: Any, precision: str) -> torch.optim.Optimizer:
    """Sets the attention that `vit-hybrid train` would, and gives its optimizer at Trainer's settings."""
    from vit_hybrid.train.optimizer import build_optimizer
    from vit_hybrid.train.plan import attention_for
    from vit_hybrid.train.recipe import Recipe

    recipe = Recipe(
        precision=precision, learning_rate=arguments.learning_rate, weight_decay=arguments.weight_decay, layer_decay=1.0
    )
    model.set_attn_implementation(attention_for(model, recipe, on_cpu=True))
    return build_optimizer(model, recipe)


def work(contender: str, size: str, precision: str, threads: int) -> None:
    """A worker: for each line on standard input, one step and a line of JSON on standard output."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not end up among the replies
    torch.set_num_threads(threads)
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Turns(TrainerCallback):
        """Halts Trainer before each step until it is asked for, and reports it."""

        def on_step_begin(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            if not sys.stdin.readline():
                raise SystemExit  # which also removes the temporary folder
            CLEAR_REFERENCES.write_text(CLEAR_PEAK)
            self.start = time.perf_counter()

        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            seconds = time.perf_counter() - self.start
            reply = {"seconds": seconds, "peak": status("VmHWM"), "before": before, "loss": float(losses[-1])}
            print(json.dumps(reply), file=replies, flush=True)

    losses: list[torch.Tensor] = []

    class Recording(Trainer):
        def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
            losses[:] = [super().training_step(*arguments, **options)]
            return losses[-1]

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH_SIZE,
            max_steps=STEPS,
            optim="adamw_torch",
            bf16=precision == "bf16",
            use_cpu=True,
            save_strategy="no",
            logging_steps=STEPS,
            report_to="none",
            disable_tqdm=True,
        )
        if contender != "legacy":  # counted with the libraries, as transformers' own class is
            import vit_hybrid.model.modeling
        if contender == "train":
            import vit_hybrid.train.job  # noqa: F401
        before = status("VmRSS")
        model = make_model(contender, size)
        optimizer = as_train_does(model, arguments, precision) if contender == "train" else None
        pictures = Pictures(SIZES[size]["image_size"])
        trainer = Recording(model, arguments, train_dataset=pictures, callbacks=[Turns()], optimizers=(optimizer, None))
        # In the given order: a shuffled one would be drawn as a list of millions first.
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(pictures)
        print(json.dumps({"torch": torch.__version__}), file=replies, flush=True)
        trainer.train()


class Worker:
    """A contender's process."""

    def __init__(self, python: str, contender: str, size: str, precision: str, threads: int) -> None:
        command = [python, __file__, "--worker", contender, "--size", size]
        command += ["--precision", precision, "--threads", str(threads)]
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

    def run(self) -> dict[str, Any]:
        """One step: its `seconds` and `loss`, the bytes at its `peak` and those held `before` the model was made."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self._reply()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def race(workers: list[Worker], precision: str, repetitions: int) -> list[dict[str, Any]]:
    """All workers in turn, round after round; one row of results for each.

    Raises:
        RuntimeError: If two contenders' first losses differ.
    """
    replies: dict[str, list[dict[str, Any]]] = {worker.contender: [] for worker in workers}
    for _ in range(WARM_UP_ROUNDS + repetitions):
        for worker in workers:
            time.sleep(PAUSE)
            replies[worker.contender].append(worker.run())
    reference = workers[-1].contender
    expected = replies[reference][0]["loss"]
    rows = []
    for worker in workers:
        found = replies[worker.contender]
        apart = abs(found[0]["loss"] - expected) / expected
        if not apart <= SAME[precision]:
            raise RuntimeError(f"{worker.contender} and {reference} begin with losses that are {apart:.1e} apart")
        timed = found[WARM_UP_ROUNDS:]
        whole = max(reply["peak"] for reply in timed)
        rows.append(
            {
                "contender": CONTENDERS[worker.contender],
                "precision": precision,
                "min": min(reply["seconds"] for reply in timed),
                "median": statistics.median(reply["seconds"] for reply in timed),
                "memory": (whole - timed[0]["before"]) / MEGABYTE,
                "whole": whole / MEGABYTE,
                "deviation": apart,
            }
        )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """One precision's rows for people; `faster` is the last row's shortest time over the row's."""
    print(f"{'':30}{'':6}{'min s':>9}{'median s':>10}{'faster':>8}{'MB':>8}{'whole MB':>10}{'deviation':>11}")
    for row in rows:
        print(
            f"{row['contender']:30}{row['precision']:6}{row['min']:>9.3f}{row['median']:>10.3f}"
            f"{rows[-1]['min'] / row['min']:>8.2f}{row['memory']:>8.0f}{row['whole']:>10.0f}{row['deviation']:>11.1e}",
            flush=True,
        )


def main() -> None:
    """Parse, start the workers, race, print."""
    parser = argparse.ArgumentParser(description="Time a training step of R26+S/32 on the CPU against 4.49.")
    parser.add_argument("--legacy", metavar="PYTHON", help="interpreter with transformers 4.49.0 to compare with")
    parser.add_argument("--precision", nargs="+", choices=SAME, default=list(SAME), help="what to compute in (all)")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help=f"timed rounds ({REPETITIONS})")
    parser.add_argument("--threads", type=int, default=THREADS, help=f"threads of a contender ({THREADS})")
    parser.add_argument("--size", choices=SIZES, default="r26-s32", help="model (r26-s32); tiny is for trying this out")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)  # what a contender's process is given
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.size, arguments.precision[0], arguments.threads)
        return
    if not CLEAR_REFERENCES.exists():
        parser.error("a step's memory is read from /proc, which only Linux has")

    pythons = {"train": sys.executable, "plain": sys.executable}
    if arguments.legacy:
        pythons["legacy"] = arguments.legacy
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for precision in arguments.precision:
        workers: list[Worker] = []
        try:
            for name, python in pythons.items():
                workers.append(Worker(python, name, arguments.size, precision, arguments.threads))
            rows += race(workers, precision, arguments.repetitions)
            print_table([row for row in rows if row["precision"] == precision])
            versions = {CONTENDERS[worker.contender]: worker.torch for worker in workers}
        finally:
            for worker in workers:
                worker.close()
    settings = {"size": arguments.size, "threads": arguments.threads, "repetitions": arguments.repetitions}
    print(json.dumps({"benchmark": "training", "batch_size": BATCH_SIZE, **settings, "torch": versions, "rows": rows}))


if __name__ == "__main__":
    main()
