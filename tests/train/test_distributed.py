"""Training in several processes: the same result as in one, one voice, and ends that are agreed upon."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fresh_process import environment
from PIL import Image
from several_processes import Ended, together
from tiny_hybrid import TINY_BACKBONE

SIZE = 32
TRAINING_PICTURES, VALIDATION_PICTURES = 22, 7  # neither fills the processes' batches evenly
LAUNCH_LIMIT = 300  # seconds

# Float32 sums in another order; what comes of them in the few steps of these runs.
WEIGHTS_TOLERANCE = 2e-5
FIGURES_TOLERANCE = 1e-5

ARCHITECTURE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": SIZE,
    "backbone_config": TINY_BACKBONE,
}
RECIPE: dict[str, Any] = {
    "architecture": ARCHITECTURE,
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "layer_decay": 0.9,
    "log_every_steps": 1,
    "workers": 0,
}
STEPS = 6

TRAIN = """
import json, os, signal, sys
from pathlib import Path
from vit_hybrid.train.job import train
from vit_hybrid.train.recipe import build_recipe
from vit_hybrid.train.run import Run
from transformers import TrainerCallback

class At(TrainerCallback):
    def __init__(self, step, what):
        self.step, self.what = step, what
    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            self.what()

def run(recipe, data, output, **fields):
    return train(Run(data=data, output=Path(output), recipe=build_recipe(recipe), **fields))

def outcome_of(*args, **fields):
    try:
        return run(*args, **fields)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


def write_pictures(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", TRAINING_PICTURES), ("val", VALIDATION_PICTURES)):
        for index in range(count):
            levels = random.integers(0, 160, (SIZE, SIZE, 3), dtype=np.uint8)
            levels[..., index % 3] += 60
            path = folder / split / "red green blue".split()[index % 3] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(levels).save(path)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def damaged_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_pictures(tmp_path_factory.mktemp("damaged"))
    for name in ("train/red/torn.png", "val/green/torn.png"):
        (folder / name).write_bytes(b"no picture")
    return folder


def call(recipe: Mapping[str, Any], data: Path, output: Path, fields: str = "") -> str:
    return f"{dict(recipe)!r}, {str(data)!r}, {str(output)!r}{fields}"


def trained(recipe: Mapping[str, Any], data: Path, output: Path, count: int, fields: str = "") -> Path:
    for process in together(f"{TRAIN}\nrun({call(recipe, data, output, fields)})", count):
        assert process.status == 0, process.output
    return output


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def largest_difference(one: Path, other: Path) -> float:
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def figures_of(folder: Path) -> list[dict[str, float]]:
    """What was logged, without times."""
    return [
        {name: value for name, value in entry.items() if "runtime" not in name and "per_second" not in name}
        for entry in metrics_of(folder)["log"]
    ]


def assert_same_run(one: Path, other: Path) -> None:
    assert largest_difference(one, other) < WEIGHTS_TOLERANCE
    ours, theirs = figures_of(one), figures_of(other)
    assert len(ours) == len(theirs) > STEPS
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(yours, abs=FIGURES_TOLERANCE)
    mine, yours = metrics_of(one)["validation"], metrics_of(other)["validation"]
    assert mine["confusion_matrix"] == yours["confusion_matrix"]
    assert sum(map(sum, yours["confusion_matrix"])) == VALIDATION_PICTURES
    name = "negative_log_likelihood"
    assert mine[name] == pytest.approx(yours[name], abs=FIGURES_TOLERANCE)


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process."""
    return trained(RECIPE, pictures, tmp_path_factory.mktemp("alone") / "run", 1)


def test_two_processes_train_as_one(pictures: Path, alone: Path, tmp_path: Path) -> None:
    both = trained(RECIPE, pictures, tmp_path / "both", 2)
    assert_same_run(alone, both)
    assert metrics_of(alone)["processes"] == 1
    assert metrics_of(both)["processes"] == 2


def test_accumulated_batches_are_part_of_the_batch(pictures: Path, alone: Path, tmp_path: Path) -> None:
    both = trained({**RECIPE, "gradient_accumulation": 2}, pictures, tmp_path / "both", 2)
    assert_same_run(alone, both)


def test_sgd_class_weights_and_an_average_of_weights(pictures: Path, tmp_path: Path) -> None:
    recipe = {**RECIPE, "optimizer": "sgd", "learning_rate": 0.03, "ema": 0.9, "class_weights": {"red": 3.0}}
    one = trained(recipe, pictures, tmp_path / "one", 1)
    both = trained({**recipe, "gradient_accumulation": 2}, pictures, tmp_path / "both", 2)
    assert_same_run(one, both)


def test_resuming_after_the_death_of_a_process(pictures: Path, tmp_path: Path) -> None:
    # Dropout makes the result depend on each process's own random numbers.
    recipe = {**RECIPE, "dropout": 0.2}
    unbroken = trained(recipe, pictures, tmp_path / "unbroken", 2)
    output = tmp_path / "killed"
    kill = ", callbacks=[At(5, lambda: RANK == 0 and os.kill(os.getpid(), signal.SIGKILL))]"
    first, second = together(f"{TRAIN}\noutcome_of({call(recipe, pictures, output, kill)})")
    assert first.status == -9
    assert "PeerLost: another process of this run has ended" in second.output
    (checkpoint,) = (output / "checkpoints").glob("checkpoint-*")
    assert checkpoint.name == f"checkpoint-{STEPS // 2}"
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in checkpoint.iterdir()}
    trained(recipe, pictures, output, 2, ", resume=True")
    assert largest_difference(unbroken, output) == 0.0


def test_processes_drop_different_units(pictures: Path, tmp_path: Path) -> None:
    code = f"{TRAIN}\nimport torch\nwhat = lambda: print('drawn', torch.rand(()).item())\n"
    code += f"run({call({**RECIPE, 'max_steps': 1}, pictures, tmp_path / 'run', ', callbacks=[At(1, what)]')})"
    first, second = (re.findall(r"drawn (\S+)", process.output) for process in together(code))
    assert len(first) == len(second) == 1
    assert first != second


def test_a_signal_to_one_process_stops_all(pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    stop = ", callbacks=[At(4, lambda: RANK == 1 and os.kill(os.getpid(), signal.SIGTERM))]"
    for process in together(f"{TRAIN}\noutcome_of({call(RECIPE, pictures, output, stop)})"):
        assert "TrainingStopped: stopped at step " in process.output
    names = sorted(path.name for path in (output / "checkpoints").glob("checkpoint-*"))
    assert len(names) == 2
    assert names[-1] in ("checkpoint-4", "checkpoint-5")


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_in_one_process_stops_all(pictures: Path, tmp_path: Path) -> None:
    spoil = (
        "from vit_hybrid.train.losses import TrainingLoss\n"
        "plain = TrainingLoss.forward\n"
        "if RANK == 1:\n"
        "    TrainingLoss.forward = lambda *args: plain(*args) * float('nan')\n"
    )
    for process in together(f"{TRAIN}\n{spoil}outcome_of({call(RECIPE, pictures, tmp_path / 'run')})"):
        assert "TrainingStopped: the loss is nan at step 1" in process.output


def test_an_error_of_one_process_names_it(pictures: Path, tmp_path: Path) -> None:
    fail = "\ndef fail():\n    if RANK == 1:\n        raise OSError('the share is gone')\n"
    fields = ", callbacks=[At(2, fail)]"
    first, second = together(f"{TRAIN}{fail}outcome_of({call(RECIPE, pictures, tmp_path / 'run', fields)})")
    assert "PeerLost: another process of this run has ended" in first.output
    assert "ProcessFailed: process 1 of 2: the share is gone\n" in second.output


def test_processes_with_different_data_do_not_train(pictures: Path, damaged_pictures: Path, tmp_path: Path) -> None:
    places = [str(damaged_pictures), str(pictures)]
    for process in together(f"{TRAIN}\noutcome_of({RECIPE!r}, {places!r}[RANK], {str(tmp_path / 'run')!r})"):
        assert "DataError: the processes see different data: " in process.output


def test_processes_go_on_from_the_same_checkpoint_or_not_at_all(pictures: Path, alone: Path, tmp_path: Path) -> None:
    places = [str(alone), str(tmp_path / "other")]
    code = f"{TRAIN}\noutcome_of({ {**RECIPE, 'epochs': 3}!r}, {str(pictures)!r}, {places!r}[RANK], resume=True)"
    for process in together(code):
        assert f"the first process resumes from checkpoint-{STEPS}, process 1 from nothing" in process.output


def command(*arguments: object, before: str = "", count: int = 2) -> list[Ended]:
    """The command in several processes."""
    argv = ["vit-hybrid", *map(str, arguments)]
    return together(f"{before}\nimport sys\nsys.argv = {argv!r}\nfrom vit_hybrid.cli.main import main\nmain()", count)


@pytest.mark.parametrize(
    ("data", "options", "status", "words"),
    [
        ("nowhere", (), 2, "nowhere"),
        ("pictures", ("--batch-size", 7), 2, "cannot be divided among 2 processes"),
        ("damaged", ("--strict",), 2, "torn.png"),
        ("pictures", ("--learning-rate", 1e30, "--set", "optimizer=sgd", "--set", "warmup=0"), 1, "the loss is "),
    ],
    ids=["no data", "batch size", "strict", "not a number"],
)
def test_an_error_that_all_processes_meet_is_said_once(
    data: str,
    options: tuple[object, ...],
    status: int,
    words: str,
    pictures: Path,
    damaged_pictures: Path,
    recipe_file: Path,
    tmp_path: Path,
) -> None:
    places = {"nowhere": tmp_path / "nowhere", "pictures": pictures, "damaged": damaged_pictures}
    first, second = command("train", places[data], "--output", tmp_path / "run", "--recipe", recipe_file, *options)
    assert (first.status, second.status) == (status, status), first.output + second.output
    assert words in first.output
    assert first.output.count("vit-hybrid: ") == 1
    assert second.output == ""


# --- the launchers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(json.dumps(RECIPE))  # which YAML includes
    return path


def launch(*arguments: object) -> tuple[str, str]:
    """What a command prints on its two streams."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LAUNCH_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_torchrun(damaged_pictures: Path, alone: Path, recipe_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    ours = ("vit_hybrid", "train", damaged_pictures, "--output", output, "--recipe", recipe_file, "--json")
    printed, said = launch("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", *ours)
    *lines, last = said.splitlines()
    assert "\n".join(lines).count("torn.png") == 2
    assert last.startswith("passed over: 2 pictures that cannot be read")
    assert said.count("step 6/6") == 1
    assert json.loads(printed)["processes"] == 2
    assert len(metrics_of(output)["skipped"]) == 2
    assert_same_run(alone, output)


# What accelerate launch would start the processes with, without its loading the libraries for each of them again.
AS_ACCELERATE_LAUNCH = """
import os
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
def take_variables(*options):
    arguments = launch_command_parser().parse_args([*options, "-m", "vit_hybrid"])
    _validate_launch_command(arguments)
    if arguments.cpu:
        variables = prepare_simple_launcher_cmd_env(arguments)[1]
    else:
        variables = prepare_multi_gpu_env(arguments)
    for name, value in variables.items():
        os.environ.setdefault(name, value)
"""


def test_accelerate_launch_with_fsdp_on_a_cpu(pictures: Path, alone: Path, recipe_file: Path, tmp_path: Path) -> None:
    options = ("--use_fsdp", "--fsdp_version=2", "--num_processes=2", "--num_machines=1", "--mixed_precision=no")
    options += ("--dynamo_backend=no",)
    before = f"{AS_ACCELERATE_LAUNCH}\ntake_variables(*{options!r})\nassert 'ACCELERATE_USE_FSDP' in os.environ\n"
    output = tmp_path / "run"
    first, second = command("train", pictures, "--output", output, "--recipe", recipe_file, before=before)
    assert (first.status, second.status) == (0, 0), first.output + second.output
    assert first.output.count("on a CPU Trainer does not shard") == 1
    assert second.output == ""
    assert metrics_of(output)["processes"] == 2
    assert_same_run(alone, output)


def test_accelerate_launch_for_cpus_starts_one_process(pictures: Path, recipe_file: Path, tmp_path: Path) -> None:
    options = ("--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
    before = f"{AS_ACCELERATE_LAUNCH}\ntake_variables(*{options!r})\n"
    ours = ("train", pictures, "--output", tmp_path / "run", "--recipe", recipe_file, "--max-steps", 1)
    (process,) = command(*ours, before=before, count=1)
    assert process.status == 0, process.output
    assert process.output.count("torchrun --nproc-per-node") == 1


# --- sharding ---------------------------------------------------------------------------------------------------------

SHARD = """
import json, types
import torch
from torch.distributed.tensor import DTensor
import tiny_hybrid
from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.train.adapters import add_adapter, merge
from vit_hybrid.train.finishing import plain_model
from vit_hybrid.train.recipe import build_recipe
from vit_hybrid.train.sharding import full_state_dict, shard
from vit_hybrid.train.optimizer import build_optimizer

torch.distributed.init_process_group("gloo")
largest = lambda ours, theirs: max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)

def new_model(kind, adapter):
    torch.manual_seed(0)
    config = tiny_hybrid.tiny_config()
    config.backbone_config.layer_type = kind
    model = ViTHybridForImageClassification(type(config)(**config.to_dict()))
    return (add_adapter(model, adapter) if adapter else model).train()

def trained(model, optimizer, share):
    optimizer.newton_schulz_dtype = "float32"  # what bfloat16 rounds differently, Muon makes large
    first = {}
    for step in range(3):
        random = torch.Generator().manual_seed(step)
        pixels = torch.randn(8, 3, tiny_hybrid.IMAGE_SIZE, tiny_hybrid.IMAGE_SIZE, generator=random)
        labels = torch.randint(3, (8,), generator=random)
        model(pixels[share], labels=labels[share]).loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not step:
            grads = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
            whole = lambda tensor: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            first = {name: whole(grad).clone() for name, grad in grads.items()} | {"": whole(norm)}
        optimizer.step()
        optimizer.zero_grad()
    return first

found = {}
for kind, optimizer, adapter in (
    ("bottleneck", "adamw", None),
    ("bottleneck", "muon", None),
    ("bottleneck", "adamw", "lora"),
    ("preactivation", "sgd", None),
):
    recipe = build_recipe({"optimizer": optimizer, "learning_rate": 3e-3, "layer_decay": 0.9})
    plain = new_model(kind, adapter)
    gradients = trained(plain, build_optimizer(plain, recipe), slice(None))
    sharded = shard(new_model(kind, adapter))
    assert all(isinstance(weight, DTensor) for weight in sharded.parameters())
    local = sum(weight.to_local().numel() for weight in sharded.parameters())
    ours = trained(sharded, build_optimizer(sharded, recipe), slice(4 * RANK, 4 * RANK + 4))
    weights = full_state_dict(sharded)
    trainer = types.SimpleNamespace(
        accelerator=types.SimpleNamespace(unwrap_model=lambda model: model), model=sharded, recipe=recipe
    )
    found[f"{kind}, {optimizer}, {adapter}"] = {
        "share": local / sum(weight.numel() for weight in plain.parameters()),
        "gradients": largest(ours, gradients),
        "moved": largest(plain.state_dict(), new_model(kind, adapter).state_dict()),
        "gathered": len(weights),
    }
    if RANK == 0:
        whole = plain_model(trainer, weights).state_dict()
        found[f"{kind}, {optimizer}, {adapter}"]["weights"] = largest(whole, merge(plain).state_dict())
print(json.dumps(found))
torch.distributed.destroy_process_group()
"""


def test_sharded_weights_train_as_whole_ones() -> None:
    first, second = together(SHARD)
    assert (first.status, second.status) == (0, 0), first.output + second.output
    for found in json.loads(first.output.splitlines()[-1]).values():
        assert 0.4 < found["share"] < 0.6
        assert found["moved"] > 50 * WEIGHTS_TOLERANCE
        assert found["gradients"] < WEIGHTS_TOLERANCE
        assert found["weights"] < WEIGHTS_TOLERANCE
    for found in json.loads(second.output.splitlines()[-1]).values():
        assert found["gradients"] < WEIGHTS_TOLERANCE
        assert found["gathered"] == 0  # the first process alone has the whole ones


JOIN = """
import os, time
import torch
from vit_hybrid.train.processes import PeerLost, joined

if RANK == 0:  # keeps the addresses of all, gives its own to none, and ends as soon as another has come
    store = torch.distributed.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=True)
    alone = store.num_keys()
    while store.num_keys() == alone:
        time.sleep(0.01)
    raise SystemExit(3)
try:
    with joined(use_cpu=True):
        print("joined")
except PeerLost as error:
    print(f"PeerLost: {error}")
"""


def test_a_process_that_ends_while_others_join_is_named_as_lost() -> None:
    first, second = together(JOIN)
    assert (first.status, second.status) == (3, 0)
    assert "PeerLost: another process of this run has ended" in second.output
    assert "Traceback" not in second.output


def test_only_a_hybrid_among_processes_is_sharded() -> None:
    code = "import torch\nfrom vit_hybrid.train.sharding import shard\n"
    attempt = "try:\n    shard(torch.nn.Linear(2, 2))\nexcept ValueError as error:\n    print(error)\n"
    (alone,) = together(code + attempt, 1)
    assert alone.output.startswith("There are no processes to shard over; start several with torchrun")
    # The first, which keeps the others' addresses, must not end while another is still joining.
    several = f"{code}torch.distributed.init_process_group('gloo')\n{attempt}torch.distributed.barrier()\n"
    for process in together(several):
        assert process.output.startswith("Linear has no encoder layer")
