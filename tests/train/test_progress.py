"""What a run says of itself while it goes on."""

from __future__ import annotations

import io
import re

import pytest
from transformers import TrainerControl, TrainerState

from vit_hybrid.train import progress
from vit_hybrid.train.progress import TrainingProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(shown: TrainingProgress, steps: int = 4) -> None:
    """Trainer's calls of a run of `steps` steps, with a log behind each and a validation at the end."""
    state, control = TrainerState(max_steps=steps), TrainerControl()
    shown.on_train_begin(None, state, control)
    for step in range(1, steps + 1):
        state.global_step, state.epoch = step, step / 2
        shown.on_step_end(None, state, control)
        shown.on_log(None, state, control, logs={"loss": 2.5 - step / 10, "accuracy": step / 10, "learning_rate": 0.1})
    shown.on_log(None, state, control, logs={"eval_loss": 1.25, "eval_top1": 0.625})
    shown.on_train_end(None, state, control)


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "RANK"):
        monkeypatch.delenv(name, raising=False)


def test_a_terminal_gets_a_bar_with_time_left_loss_and_accuracy() -> None:
    stream = Terminal()
    shown = TrainingProgress(stream)
    run(shown)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "4/4 steps" in text
    assert "left" in text
    last = [line for line in re.split(r"[\r\n]", text) if "steps" in line][-1]
    assert "epoch 2.0, loss 2.100, accuracy 0.400, val loss 1.250, val top-1 0.625" in last


def test_the_bar_of_a_resumed_run_begins_where_the_run_goes_on() -> None:
    stream = Terminal()
    shown = TrainingProgress(stream)
    shown.on_train_begin(None, TrainerState(max_steps=8, global_step=6), TrainerControl())
    state = TrainerState(max_steps=8, global_step=7, epoch=1.5)
    shown.on_step_end(None, state, TrainerControl())  # also where nothing is logged
    shown.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "6/8 steps" in text
    assert re.search(r"epoch 1\.5 .*7/8 steps", text)
    shown.on_log(None, state, TrainerControl(), {"eval_loss": 1.0})  # as there is no bar any more
    assert re.search(r"epoch 1\.5, val loss 1\.000, step 7/8, \d+ s left\n$", stream.getvalue())


def test_a_log_gets_lines_now_and_then_and_every_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    run(TrainingProgress(stream))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2  # no time passed between the steps
    assert lines[0].startswith("epoch 0.5, loss 2.400, accuracy 0.100, step 1/4")
    assert "left" in lines[0]
    assert lines[1] == "epoch 2.0, loss 2.100, accuracy 0.400, val loss 1.250, val top-1 0.625, step 4/4"

    times = iter([100.0, 105.0, 110.1, 111.0, 121.0, 121.2])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    stream = io.StringIO()
    shown, state = TrainingProgress(stream), TrainerState(max_steps=4, global_step=4, epoch=1.0)
    shown._last_line = 99.0
    for loss in range(6):  # at most one in ten seconds
        shown.on_log(None, state, TrainerControl(), {"loss": float(loss)})
    assert [line.split(", ")[1] for line in stream.getvalue().splitlines()] == ["loss 2.000", "loss 4.000"]


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    stream = Terminal()
    shown = TrainingProgress(stream)
    shown.say("a note")
    run(shown)
    assert not stream.getvalue()


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_a_line_is_said_as_it_is_however_long(stream: io.StringIO) -> None:
    line = f"skipped: [bold]{'long/' * 60}1.jpg: is :empty: 3"
    TrainingProgress(stream).say(line)
    assert stream.getvalue() == f"{line}\n"


def test_figures_are_called_by_what_they_are() -> None:
    stream = io.StringIO()
    logs = {"eval_mean_average_precision": 0.25, "eval_mae": 0.75, "eval_loss": 1.5, "epoch": 3.0}
    shown, state = TrainingProgress(stream), TrainerState(max_steps=4, global_step=4, epoch=1.0)
    for nothing in (None, {}):
        shown.on_log(None, state, TrainerControl(), nothing)
    shown.on_log(None, state, TrainerControl(), logs)
    assert stream.getvalue() == "epoch 1.0, val loss 1.500, val mAP 0.250, val MAE 0.750, step 4/4\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (59.4, "59 s"),
        (90, "90 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (150, "2 min"),
        (3599.4, "59 min"),
        (3599.6, "1 h 00 min"),
        (7300, "2 h 01 min"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert progress._duration(seconds) == words


def test_the_time_left_of_a_resumed_run_is_by_the_steps_since(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    shown = TrainingProgress(stream)
    state = TrainerState(max_steps=200, global_step=100, epoch=1.0)
    shown.on_train_begin(None, state, TrainerControl())
    shown.on_log(None, TrainerState(max_steps=200, global_step=100), TrainerControl(), {"loss": 2.0})
    now[0], state.global_step = 120.0, 110  # ten steps in twenty seconds, and ninety to go
    shown.on_log(None, state, TrainerControl(), {"loss": 1.0})
    assert stream.getvalue().splitlines() == [
        "epoch 0.0, loss 2.000, step 100/200",  # before the first step nothing is known
        "epoch 1.0, loss 1.000, step 110/200, 3 min left",
    ]
