"""What a finished run leaves: the best weights as a model, metrics, figures and a card, each whole or not there."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .. import __version__
from ..data import Split
from ..engines.processor import CPU_INFO, cpu_name, read_text
from ..errors import escaped
from ..files import json_text, whole_folder
from ..images.image_processing import ViTHybridImageProcessor
from ..inference.calibrating import calibrate_written
from ..model.modeling import ViTHybridForImageClassification
from ..outputs.confidence import CONFIDENCE_FILES, ConfidenceError
from ..outputs.figures import confusion_matrix, training_curve
from ..outputs.scores import headline, scores
from .adapters import merge
from .card import model_card
from .run import CONFUSION_FILE, CURVE_FILE, METRICS_FILE, Outcome, Report
from .sharding import full_state_dict
from .trainer import AVERAGE_FILE, HybridTrainer

# Looking at so many once more takes a while.
PICTURES_WORTH_A_WORD = 1000


def take_best_weights(trainer: HybridTrainer) -> str:
    """Puts the weights that are to be kept into the trained model, and says in words which they are."""
    average = trainer.average
    model = trainer.accelerator.unwrap_model(trainer.model)
    best = trainer.state.best_model_checkpoint if trainer.recipe.keep_best else None
    if best is not None and Path(best).is_dir():
        trainer._load_best_model()
        if average is not None and (Path(best) / AVERAGE_FILE).is_file():
            average.load_state_dict(load_file(Path(best) / AVERAGE_FILE))
            average.copy_to(model)
            return f"the averaged weights of step {trainer.state.best_global_step}, the best in validation"
        return f"the weights of step {trainer.state.best_global_step}, the best in validation"
    if average is not None:
        average.copy_to(model)
        return "the averaged weights after the last step"
    return "the weights after the last step"


def write_outcome(
    trainer: HybridTrainer,
    processor: ViTHybridImageProcessor,
    split: Split,
    output: Path,
    facts: Mapping[str, Any],
    report: Report,
) -> Outcome:
    """Measures the trained model on the validation pictures and writes everything into `output`.

    Its confidence comes with it, unless the recipe says `calibrate: false` or there are too few validation pictures.

    Args:
        trainer: With the weights to keep in its model.
        processor: What prepares pictures for it.
        split: The run's pictures.
        output: The run's folder.
        facts: What else `metrics.json` and the card say: seconds, command, which weights.
        report: Called with one line for each thing the person should know.
    """
    prediction = trainer.predict(trainer.eval_dataset)
    name, _ = headline(split.train.problem_type)
    found: dict[str, Any] = dict(
        scores(split.train.problem_type, prediction.predictions, prediction.label_ids, split.train.labels)
    )
    metrics: dict[str, Any] = {
        name: found[name],
        "validation": found,
        "train_images": len(split.train),
        "validation_images": len(split.val),
        **facts,
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "seed": trainer.recipe.seed,
        "hardware": hardware(trainer.args.device),
        "processes": trainer.args.world_size,
        "versions": versions(),
        "finished": datetime.now(UTC).strftime("%Y-%m-%d"),
        "recipe": trainer.recipe.model_dump(mode="json"),
        "log": trainer.state.log_history,
    }
    outcome = Outcome(output, trainer.args.should_save, name, float(found[name]), metrics)
    # All processes take part in it.
    whole = full_state_dict(trainer.accelerator.unwrap_model(trainer.model)) if trainer.is_fsdp_enabled else None
    if not trainer.args.should_save:
        return outcome
    model = plain_model(trainer, whole)
    model.train(False)
    with whole_folder(output, "fill", last="config.json", stale=CONFIDENCE_FILES) as place:
        model.save_pretrained(place)
        processor.save_pretrained(place)
        if trainer.recipe.calibrate:
            metrics["confidence"] = _calibrated(place, split, trainer.args.device, report)
        (place / METRICS_FILE).write_text(json_text(metrics), encoding="utf-8")
        training_curve(trainer.state.log_history, place / CURVE_FILE)
        if found.get("confusion_matrix"):
            confusion_matrix(found["confusion_matrix"], split.train.labels, place / CONFUSION_FILE)
        (place / "README.md").write_text(escaped(model_card(model, outcome, split)), encoding="utf-8")
    return outcome


def _calibrated(place: Path, split: Split, device: torch.device, report: Report) -> dict[str, Any]:
    """Writes the confidence of the model in `place`; what came of it, or `why_not`."""
    if len(split.train) + len(split.val) > PICTURES_WORTH_A_WORD:
        report(f"calibrating the model on the {len(split.val):,} validation pictures")
    about = {"data": "the validation pictures of the training run"}
    try:
        return calibrate_written(place, split.val, split.train, device=str(device), about=about)
    except ConfidenceError as error:
        report(f"the model is not calibrated: {error}")
        return {"why_not": str(error)}


def plain_model(
    trainer: HybridTrainer, whole: Mapping[str, torch.Tensor] | None = None
) -> ViTHybridForImageClassification:
    """The trained model without what training put around it: processes, compilation, adapters.

    Args:
        trainer: With the model.
        whole: The weights, where those in the model are sharded.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if whole is not None:
        model = _unsharded(model, whole)
    if hasattr(model, "peft_config"):
        model = merge(model)
    model.set_attn_implementation("sdpa")  # how it was trained need not be how it is used
    return model.to(memory_format=torch.contiguous_format)


def _unsharded(sharded: Any, weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    model: torch.nn.Module = ViTHybridForImageClassification(sharded.config)
    if hasattr(sharded, "peft_config"):
        from peft import get_peft_model

        model = get_peft_model(model, sharded.peft_config[sharded.active_adapter])
    model.load_state_dict(weights)
    return model


def hardware(device: torch.device) -> str:
    """What the run computed on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processor = cpu_name(read_text(CPU_INFO)) or platform.machine()
    return f"{processor}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Releases of what computed."""
    import transformers

    return {"vit-hybrid": __version__, "torch": torch.__version__, "transformers": transformers.__version__}


__all__ = ["hardware", "plain_model", "take_best_weights", "versions", "write_outcome"]
