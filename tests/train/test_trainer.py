"""What is measured while a run lasts."""

from __future__ import annotations

import errno
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_training import make_pictures, trained
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainerControl, TrainerState

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.data import read_labeled
from vit_hybrid.inference.predictor import Predictor
from vit_hybrid.outputs.problems import SINGLE_LABEL
from vit_hybrid.train.checkpointing import STAGING
from vit_hybrid.train.interruption import start_patient_worker
from vit_hybrid.train.losses import TrainingLoss
from vit_hybrid.train.recipe import build_recipe
from vit_hybrid.train.run import TrainingStopped
from vit_hybrid.train.trainer import PATIENCE_COUNTER, HybridTrainer


def test_validation_measures_the_averaged_weights_that_are_kept(tmp_path: Path) -> None:
    outcome = trained(make_pictures(tmp_path / "data"), tmp_path / "out", ema=0.9, keep_best=False)
    last = [entry for entry in outcome.metrics["log"] if "eval_top1" in entry][-1]
    assert last["step"] == outcome.metrics["steps"]
    kept = outcome.metrics["validation"]
    for name in ("top1", "negative_log_likelihood", "expected_calibration_error", "macro_f1"):
        assert last[f"eval_{name}"] == pytest.approx(kept[name], rel=1e-5)


def test_a_validation_loss_weighs_each_class_by_its_own_weight(tmp_path: Path) -> None:
    weights = {"red": 3.0, "blue": 0.25}
    data = make_pictures(tmp_path / "data")
    outcome = trained(data, tmp_path / "out", class_weights=weights, keep_best=False)
    [*_, last] = [entry["eval_loss"] for entry in outcome.metrics["log"] if "eval_loss" in entry]
    pictures = read_labeled(data, "val")
    predictor = Predictor.from_pretrained(tmp_path / "out", device="cpu")
    logits = torch.from_numpy(predictor.logits([pictures.picture(index) for index in range(len(pictures))]))
    assert list(ViTHybridForImageClassification.from_pretrained(tmp_path / "out").config.id2label.values()) == [
        "blue",
        "green",
        "red",
    ]
    losses = -logits.log_softmax(-1)[torch.arange(9), torch.from_numpy(pictures.targets)]
    each = torch.tensor([0.25] * 3 + [1.0] * 3 + [3.0] * 3)  # three pictures of each color
    assert last == pytest.approx(float((losses * each).sum() / each.sum()), rel=1e-4)


def test_the_training_accuracy_is_that_of_the_steps_since_it_was_last_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, float]] = []
    monkeypatch.setattr(Trainer, "log", lambda self, logs: told.append(logs))
    trainer: Any = object.__new__(HybridTrainer)
    trainer.__dict__ |= {"_correct": 0.0, "_seen": 0, "problem_type": SINGLE_LABEL}
    trainer.accelerator = SimpleNamespace(reduce=lambda counts: counts)
    trainer.args = SimpleNamespace(device="cpu")
    logits = torch.eye(4)
    trainer._count(logits, torch.tensor([0, 1, 0, 0]))
    trainer._count(logits, torch.tensor([0, 1, 2, 0]))
    trainer.log({"loss": 1.0})
    trainer._count(logits, torch.tensor([0, 1, 2, 3]))
    trainer.log({"eval_loss": 1.0})
    trainer.log({"loss": 1.0})
    trainer.log({"loss": 1.0})
    assert told == [{"loss": 1.0, "accuracy": 5 / 8}, {"eval_loss": 1.0}, {"loss": 1.0, "accuracy": 1.0}, {"loss": 1.0}]


def a_trainer(**attributes: Any) -> Any:
    """One without a run, whose loss weighs three classes."""
    trainer: Any = object.__new__(HybridTrainer)
    trainer.__dict__ |= {"_correct": 0.0, "_seen": 0, "_mean_weight": 1.0, "problem_type": SINGLE_LABEL, **attributes}
    trainer.loss = TrainingLoss(SINGLE_LABEL, class_weights=[4.0, 1.0, 0.5])
    trainer.recipe = build_recipe({})
    trainer.state = SimpleNamespace(global_step=0)
    trainer.args = SimpleNamespace(device="cpu")
    trainer.accelerator = SimpleNamespace(reduce=lambda value, how="sum": value)
    return trainer


def test_pictures_weigh_where_the_loss_is_of_one_label_each() -> None:
    """A binary cross-entropy has its weights by label."""
    trainer = a_trainer()
    for loss, weights, expected in (
        ("cross_entropy", [4.0, 1.0, 0.5], True),
        ("cross_entropy", None, False),
        ("binary_cross_entropy", [4.0, 1.0, 0.5], False),
    ):
        trainer.loss = TrainingLoss(SINGLE_LABEL, loss=loss, class_weights=weights)
        assert trainer._weighs_pictures is expected


def test_a_steps_loss_is_the_weighted_mean_of_all_its_pictures_however_they_are_divided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = a_trainer()
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 0, 1, 2, 2, 1])
    parts = [(logits[:3], targets[:3]), (logits[3:], targets[3:])]
    batches = [{"pixel_values": torch.zeros(3, 3, 4, 4), "targets": part} for _, part in parts]
    monkeypatch.setattr(Trainer, "get_batch_samples", lambda self: (batches, None))
    assert trainer.get_batch_samples() == (batches, None)
    losses = []
    for (part, _), batch in zip(parts, batches, strict=True):
        model = torch.nn.Module()
        model.forward = lambda part=part, **_: SimpleNamespace(logits=part)  # type: ignore[method-assign]
        losses.append(trainer.compute_loss(model, batch))
    trainer.compute_loss(model.eval(), batch)
    assert trainer._seen == 6  # pictures of a validation are none of the training accuracy
    # Trainer takes the mean over the batches.
    torch.testing.assert_close(torch.stack(losses).mean(), trainer.loss(logits, targets))
    each = -logits.log_softmax(-1)[torch.arange(6), targets]
    weights = torch.tensor([4.0, 1.0, 0.5])[targets]
    torch.testing.assert_close(torch.stack(losses).mean(), (each * weights).sum() / weights.sum())


@pytest.mark.parametrize("kept", [0, 4])
def test_a_loss_that_is_no_number_is_seen_where_it_is_logged(kept: int, tmp_path: Path) -> None:
    """As on an accelerator, which is not made to wait at every step."""
    if kept:
        (tmp_path / f"checkpoint-{kept}").mkdir()
        (tmp_path / f"checkpoint-{kept}" / "trainer_state.json").write_text("{}")
    trainer = a_trainer(checkpoint_folder=tmp_path)
    trainer.state.global_step = 8
    with pytest.raises(TrainingStopped) as caught:
        trainer.log({"loss": float("inf")})
    left = "checkpoint-4 is whole: --resume goes on from it" if kept else "There is no checkpoint before it"
    assert str(caught.value) == (
        "the loss is inf at step 9; a smaller learning_rate, a longer warmup, or precision f32 usually helps. " + left
    )


@pytest.mark.parametrize(("keep_best", "is_there"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_run_that_goes_on_takes_its_steps_from_the_recipe_and_the_rest_from_its_checkpoint(
    keep_best: bool, is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = tmp_path / "checkpoint-6"
    if is_there:
        best.mkdir()
    monkeypatch.setattr(Trainer, "_init_training_state", lambda self, *given: given)
    trainer = a_trainer(checkpoint_folder=tmp_path, control=TrainerControl())
    trainer.recipe = build_recipe({"keep_best": keep_best})
    patience = EarlyStoppingCallback(5)
    trainer.callback_handler = SimpleNamespace(callbacks=[object(), patience])
    trainer.state = TrainerState(best_global_step=6, best_metric=0.75, best_model_checkpoint="where it once was")
    trainer.state.stateful_callbacks = {"EarlyStoppingCallback": {"args": {}, "attributes": {PATIENCE_COUNTER: 3}}}
    trainer.state.compute_steps = lambda *given: computed.append(given)
    computed: list[Any] = []
    assert trainer._init_training_state(9, 3, 3, None, None) == (9, 3, 3, None, None)
    assert (computed, patience.early_stopping_patience_counter) == ([], 0)  # of a run from its beginning
    assert trainer._init_training_state(9, 3, 3, "checkpoint-8", None) == (9, 3, 3, "checkpoint-8", None)
    assert computed == [(trainer.args, 9)]
    state, is_known = trainer.state, is_there or not keep_best
    assert state.best_model_checkpoint == (str(best) if is_there else None)
    assert (state.best_metric, state.best_global_step) == ((0.75, 6) if is_known else (None, None))
    assert patience.early_stopping_patience_counter == 3
    assert {*state.stateful_callbacks} == {"EarlyStoppingCallback", "TrainerControl"}


@pytest.mark.parametrize(("is_best", "keep_best"), [(True, True), (True, False), (False, True)])
def test_the_best_is_saved_when_it_is_to_be_kept(
    is_best: bool, keep_best: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_determine_best_metric", lambda self, metrics, trial: is_best)
    trainer = a_trainer(control=TrainerControl())
    trainer.recipe = build_recipe({"keep_best": keep_best})
    assert trainer._determine_best_metric({}, None) is is_best
    assert trainer.control.should_save == (is_best and keep_best)


def test_an_epoch_with_nothing_left_to_do_is_not_begun_and_a_lost_worker_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [RuntimeError("DataLoader worker (pid 7) is killed"), RuntimeError("a fault of the program")]
    run: list[dict[str, int]] = []

    def run_epoch(self: Any, **options: int) -> None:
        run.append(options)
        if trainer.state.global_step == 7:
            raise errors.pop(0)

    monkeypatch.setattr(Trainer, "_run_epoch", run_epoch)
    trainer = a_trainer(checkpoint_folder=tmp_path)
    patience = EarlyStoppingCallback(2)
    trainer.callback_handler = SimpleNamespace(callbacks=[object(), patience])
    for step, counter, is_over in ((8, 1, False), (9, 0, True), (10, 0, True), (8, 2, True), (8, 3, True)):
        trainer.control = TrainerControl()
        trainer.state = TrainerState(global_step=step, max_steps=9)
        patience.early_stopping_patience_counter = counter
        trainer._run_epoch(epoch=3)
        assert trainer.control.should_training_stop == is_over
    assert run == [{"epoch": 3}]
    trainer.state = TrainerState(global_step=7, max_steps=9)
    patience.early_stopping_patience_counter = 0
    with pytest.raises(TrainingStopped) as caught:
        trainer._run_epoch(epoch=3)
    assert str(caught.value) == (
        "a process that reads pictures has ended behind step 7 (DataLoader worker (pid 7) is killed); with too little "
        "memory, fewer workers help. There is no checkpoint before it"
    )
    with pytest.raises(RuntimeError, match=r"^a fault of the program$"):
        trainer._run_epoch(epoch=3)


@pytest.mark.parametrize("name", ["get_train_dataloader", "get_eval_dataloader"])
def test_workers_outlast_a_signal_whichever_pictures_they_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = object()
    loader = SimpleNamespace(worker_init_fn=usual)
    monkeypatch.setattr(Trainer, name, lambda self: loader)
    for _ in range(2):  # Trainer keeps a loader, and it is made patient once
        assert getattr(a_trainer(), name)() is loader
        assert (loader.worker_init_fn.func, loader.worker_init_fn.args) == (start_patient_worker, (usual,))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), TrainingStopped),
        (OSError(errno.ENOENT, "No such file"), OSError),
        (RuntimeError("a fault of the program"), RuntimeError),
    ],
)
def test_only_want_of_room_stops_a_run_at_a_checkpoint(
    error: Exception, told: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        assert trainer._get_output_dir(None) == str(tmp_path / STAGING)
        raise error

    monkeypatch.setattr(Trainer, "_save_checkpoint", fail)
    trainer = a_trainer(checkpoint_folder=tmp_path, _staging=None, _refuse_nonsense_weights=lambda: None)
    trainer.args.should_save = True
    trainer.accelerator.wait_for_everyone = lambda: None
    with pytest.raises(told) as caught:
        trainer._save_checkpoint(None, None)
    assert (caught.value is error) == (told is not TrainingStopped)
    if told is TrainingStopped:
        start = f"the checkpoint of step 0 cannot be written to {tmp_path} (No space left on device; "
        assert str(caught.value).startswith(start)
        assert str(caught.value).endswith("MB free); make room. There is no checkpoint before it")
    assert trainer._get_output_dir(None) == str(tmp_path)
    assert not (tmp_path / STAGING).exists()


@pytest.mark.parametrize(
    ("best_step", "others", "expected"), [(None, [], None), (6, [6], 6), (6, [4], None), (8, [], 8), (0, [6], None)]
)
@pytest.mark.parametrize("is_first", [True, False])
def test_where_the_best_checkpoint_is_stands_in_the_one_that_is_being_written(
    best_step: int | None, others: list[int], expected: int | None, is_first: bool, tmp_path: Path
) -> None:
    for step in others:
        (tmp_path / f"checkpoint-{step}").mkdir()
    written: list[tuple[str, str | None]] = []
    trainer = a_trainer(checkpoint_folder=tmp_path)
    trainer.args.should_save = is_first
    state = trainer.state
    state.best_global_step, state.best_model_checkpoint = best_step, "where it was staged"
    state.save_to_json = lambda path: written.append((path, state.best_model_checkpoint))
    place = tmp_path / STAGING / "checkpoint-8"
    trainer._record_best(place)
    best = None if expected is None else str(tmp_path / f"checkpoint-{expected}")
    assert state.best_model_checkpoint == best
    assert written == ([(str(place / "trainer_state.json"), best)] if is_first else [])


def test_weights_that_are_no_numbers_are_refused_unless_they_are_frozen(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    trainer = a_trainer(checkpoint_folder=tmp_path, model=[model])
    trainer.accelerator.unwrap_model = lambda given: given[0]
    trainer.state.global_step = 8
    trainer._refuse_nonsense_weights()
    with torch.no_grad():
        model.bias[1] = -torch.inf
    for refused in (trainer._refuse_nonsense_weights, lambda: trainer._save_checkpoint(None, None)):
        with pytest.raises(TrainingStopped, match=r"^the weight bias is no number after step 8; a smaller "):
            refused()
    assert [*tmp_path.iterdir()] == []
    model.bias.requires_grad_(False)
    trainer._refuse_nonsense_weights()


def test_a_validation_loss_is_that_of_all_pictures_at_once() -> None:
    trainer = a_trainer()
    logits, targets = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 0, 1, 2, 2, 1])
    found = trainer._scores(EvalPrediction(predictions=logits.numpy(), label_ids=targets.numpy()))
    assert found["loss"] == pytest.approx(float(trainer.loss(logits, targets)))
    assert found["top1"] == pytest.approx(1 / 6)


def test_scores_are_of_logits_in_single_precision() -> None:
    logits, targets, loss = torch.ones(2, 3, dtype=torch.bfloat16), torch.tensor([0, 1]), torch.tensor(2.0)
    trainer = a_trainer(
        _prepare_inputs=lambda inputs: inputs,
        compute_loss_context_manager=nullcontext,
        compute_loss=lambda *_, **__: (loss, {"logits": logits}),
    )
    found = trainer.prediction_step(None, {"targets": targets}, False)
    assert found[0] is loss
    assert found[1].dtype == torch.float32
    assert found[2] is targets
    assert trainer.prediction_step(None, {"targets": targets}, True) == (loss, None, None)
