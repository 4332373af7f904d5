"""Stopped runs go on as if they had not been stopped: the same weights to the bit, the same scores."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_training
from fresh_process import TIME_LIMIT

pytest.importorskip("accelerate")
pytest.importorskip("kornia")

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from vit_hybrid.train.checkpointing import named_checkpoints, step_of, whole_checkpoints
from vit_hybrid.train.job import train
from vit_hybrid.train.recipe import build_recipe
from vit_hybrid.train.resuming import RECIPE_FILE, contradictions_of_recipe
from vit_hybrid.train.run import Run, TrainingStopped

KILLS = int(os.environ.get("VIT_HYBRID_KILLS", "3"))

# transformers' and PEFT's own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")


class PulledPlugError(BaseException):
    """As suddenly as a process can end and its test go on."""


class AtStep(TrainerCallback):
    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step, self.action = step, action

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.action()


def pull_plug() -> None:
    raise PulledPlugError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.make_pictures(tmp_path_factory.mktemp("pictures") / "colors")


def run(pictures: Path, output: Path, callbacks: Any = (), said: list[str] | None = None, **fields: Any) -> Any:
    options = {name: fields.pop(name) for name in ("resume", "overwrite") if name in fields}
    report = (lambda line: None) if said is None else said.append
    recipe = build_recipe({**tiny_training.FIELDS, **fields})
    return train(
        Run(str(pictures), output, recipe, callbacks=callbacks, report=report, threads=1, device="cpu", **options)
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= {f"{file.name}: {name}": weight for name, weight in load_file(file).items()}
    return found


def assert_same(one: Path, other: Path) -> None:
    """The finished models, the last checkpoints and the validation scores are equal."""
    last = [whole_checkpoints(output / "checkpoints")[-1] for output in (one, other)]
    assert last[0].name == last[1].name
    for first, second in ((one, other), (last[0], last[1])):
        expected, found = weights(first), weights(second)
        assert expected
        assert expected.keys() == found.keys()
        different = [name for name in expected if not torch.equal(expected[name], found[name])]
        assert not different
    metrics = [json.loads((output / "metrics.json").read_bytes()) for output in (one, other)]
    assert metrics[0]["validation"] == metrics[1]["validation"]
    assert metrics[0]["kept"] == metrics[1]["kept"]
    assert metrics[0]["steps"] == metrics[1]["steps"]


GROWING = {"growing": [{"image_size": 16, "epochs": 1}, {"image_size": 32, "epochs": 1}]}
RECIPES = {
    "adamw": tiny_training.RANDOM,
    "adamw, growing, workers": {**tiny_training.RANDOM, **GROWING, "workers": 1},
    "muon, accumulated": {**tiny_training.RANDOM, "optimizer": "muon", "gradient_accumulation": 2, "keep_best": False},
    "sgd, frozen": {"optimizer": "sgd", "schedule": "linear", "warmup": 0.3, "freeze": ["stem"], "drop_path": 0.3},
    "lora": {"adapter": {"method": "lora", "dropout": 0.2}, "drop_path": 0.3, "ema": 0.9},
}


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that is random, without a stop."""
    output = tmp_path_factory.mktemp("whole") / "run"
    run(pictures, output, **tiny_training.RANDOM)
    return output


@pytest.mark.parametrize("name", RECIPES)
def test_weights_after_a_stop_are_those_without(name: str, pictures: Path, tmp_path: Path) -> None:
    if "adapter" in RECIPES[name]:
        pytest.importorskip("peft")
    fields = {**RECIPES[name], "save_every": 1 / 3}  # every second step
    run(pictures, tmp_path / "whole", **fields)
    # In the middle of an epoch, and in the next behind the end of the first.
    for stop, resume in ((3, False), (7, True)):
        with pytest.raises(PulledPlugError):
            run(pictures, tmp_path / "broken", [AtStep(stop, pull_plug)], resume=resume, **fields)
        assert whole_checkpoints(tmp_path / "broken" / "checkpoints")[-1].name == f"checkpoint-{stop - 1}"
    run(pictures, tmp_path / "broken", resume=True, **fields)
    assert_same(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_of_its_step(number: int, pictures: Path, whole: Path, tmp_path: Path) -> None:
    fields = {**tiny_training.RANDOM, "workers": 1}  # which change nothing
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    said: list[str] = []
    stop = AtStep(4, lambda: os.kill(os.getpid(), number))
    with pytest.raises(TrainingStopped, match=r"stopped at step [45] of 12, with a checkpoint.*--resume") as stopped:
        run(pictures, tmp_path / "broken", [stop], said, **fields)
    assert stopped.value.signal == number
    [step] = re.findall(r"stopped at step (\d)", str(stopped.value))
    [checkpoint] = whole_checkpoints(tmp_path / "broken" / "checkpoints")
    assert checkpoint.name == f"checkpoint-{step}"
    assert json.loads((checkpoint / "trainer_state.json").read_bytes())["global_step"] == int(step)
    assert any("stopping after this step" in line for line in said)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    run(pictures, tmp_path / "broken", resume=True, **fields)
    assert_same(whole, tmp_path / "broken")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_workers_too_leaves_a_checkpoint(
    number: int, pictures: Path, whole: Path, tmp_path: Path
) -> None:
    """As a terminal and service managers send it to all processes of a group."""
    fields = {**tiny_training.RANDOM, "workers": 1}

    def stop_all() -> None:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, number)
        time.sleep(0.5)  # long enough for a worker to die of it
        os.kill(os.getpid(), number)

    with pytest.raises(TrainingStopped, match=r"stopped at step [45] of 12, with a checkpoint"):
        run(pictures, tmp_path / "broken", [AtStep(4, stop_all)], **fields)
    run(pictures, tmp_path / "broken", resume=True, **fields)
    assert_same(whole, tmp_path / "broken")


def test_a_worker_that_is_killed_is_told(pictures: Path, tmp_path: Path) -> None:
    def kill_workers() -> None:
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()

    told = r"process that reads pictures has ended behind step [78] \(.*DataLoader worker.*\); with too little memory, "
    with pytest.raises(TrainingStopped, match=rf"{told}fewer workers help\. checkpoint-6 is whole"):
        # Few enough pictures are fetched ahead for the step to need the next.
        run(pictures, tmp_path / "run", [AtStep(7, kill_workers)], workers=1)


def test_a_second_ctrl_c_ends_at_once(pictures: Path, tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        run(pictures, tmp_path / "broken", [AtStep(4, twice)])


def test_ctrl_c_in_the_last_step_leaves_the_finished_model(pictures: Path, tmp_path: Path) -> None:
    stop = AtStep(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert run(pictures, tmp_path, [stop], max_steps=2).metrics["steps"] == 2
    assert (tmp_path / "model.safetensors").is_file()


def test_early_stopping_goes_on_counting(pictures: Path, tmp_path: Path) -> None:
    # Next to nothing is learned at this rate, so that soon no validation betters those before.
    fields = {"epochs": 9, "early_stopping": 3, "learning_rate": 1e-12, "save_every": 1.0}
    steps = run(pictures, tmp_path / "whole", **fields).metrics["steps"]
    assert steps < 9 * 6
    with pytest.raises(PulledPlugError):
        run(pictures, tmp_path / "broken", [AtStep(steps - 4, pull_plug)], **fields)
    run(pictures, tmp_path / "broken", resume=True, **fields)
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_what_an_adapter_had_not_and_has_now_is_named(tmp_path: Path) -> None:
    before = build_recipe({**tiny_training.FIELDS, "adapter": {"method": "lora", "alpha": 4, "dropout": 0.1}})
    (tmp_path / RECIPE_FILE).write_text(before.to_yaml())
    now = build_recipe({**tiny_training.FIELDS, "adapter": {"method": "lora", "alpha": 4, "r": 2}})
    found = contradictions_of_recipe(tmp_path, now)
    assert found == ["adapter.dropout was 0.1 and is none", "adapter.r was none and is 2"]
    assert contradictions_of_recipe(tmp_path, before) == []


def test_a_run_stopped_behind_its_last_step_is_only_finished(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"max_steps": 8, **tiny_training.RANDOM}  # in the middle of an epoch, where Trainer would go on
    run(pictures, tmp_path / "whole", **fields)

    def fail(*_: Any) -> None:
        raise RuntimeError("a fault of the program, which is no want of room")

    with monkeypatch.context() as patched:
        patched.setattr("vit_hybrid.train.job.write_outcome", fail)
        with pytest.raises(RuntimeError, match=r"^a fault of the program"):
            run(pictures, tmp_path / "broken", **fields)
    steps = []
    run(pictures, tmp_path / "broken", [AtStep(9, lambda: steps.append(9))], resume=True, **fields)
    assert not steps
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_the_best_checkpoint_is_found_where_the_folder_was_moved(pictures: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(PulledPlugError):
        run(pictures, tmp_path / "old", [AtStep(8, pull_plug)], **tiny_training.RANDOM)
    (tmp_path / "old").rename(tmp_path / "new")
    run(pictures, tmp_path / "new", resume=True, **tiny_training.RANDOM)
    assert_same(whole, tmp_path / "new")


# --- kill -9 ----------------------------------------------------------------------------------------------------------


def last_step(output: Path) -> int:
    found = named_checkpoints(output / "checkpoints")
    return step_of(found[-1]) if found else 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9")
def test_killed_at_random_moments(pictures: Path, tmp_path: Path) -> None:
    """Half of the kills come while a checkpoint is being written; VIT_HYBRID_KILLS says how many there are."""
    largest_advance = 4  # in steps, before a kill
    epochs = (largest_advance + 1) * KILLS // 6 + 2
    fields = {**tiny_training.FIELDS, **tiny_training.RANDOM, "epochs": epochs, "save_every": 1 / 6, "workers": 1}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(build_recipe(fields).to_yaml())
    output, log = tmp_path / "broken", tmp_path / "log"
    partial = output / "checkpoints" / ".partial-new"
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(tiny_training.PRELOAD)
    chance = random.Random(0)
    kills = in_writing = 0
    status = None
    while status != 0:
        more = ["--resume"] if kills else ["--recipe", str(recipe)]
        arguments = ["train", str(pictures), "--output", str(output), "--threads", "1", "--device", "cpu", *more]
        process = processes.Process(target=tiny_training.run_command, args=(arguments, str(log)))
        process.start()
        until = time.monotonic() + TIME_LIMIT
        first, advance, moment = last_step(output), chance.randrange(largest_advance), chance.random()
        if kills < KILLS:
            while last_step(output) <= first + advance and process.is_alive():
                time.sleep(0.002)
                assert time.monotonic() < until, log.read_text()
            while kills % 2 and not (partial.is_dir() and any(partial.iterdir())) and process.is_alive():
                time.sleep(0.0005)
            time.sleep(moment * (0.02 if kills % 2 else 0.2))
            assert process.is_alive(), f"over after {kills} kills: {log.read_text()}"
            process.kill()
            in_writing += partial.is_dir()
            kills += 1
        process.join(TIME_LIMIT)
        status = process.exitcode
        assert status in (0, -signal.SIGKILL), log.read_text()
        assert kills == 1 or "resuming from checkpoint-" in log.read_text()
    assert kills == KILLS
    assert in_writing or kills < 2
    print(f"{kills} kills, {in_writing} of them while a checkpoint was being written")
    assert not [*output.glob(".partial-*"), *output.glob("checkpoints/.partial-*")]
    run(pictures, tmp_path / "whole", **fields)
    assert_same(tmp_path / "whole", output)
