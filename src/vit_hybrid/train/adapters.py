"""Adapters: a few new weights beside a frozen model's (LoRA and relatives), through the library PEFT."""

import dataclasses
import difflib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from torch import nn

from ..errors import one_line
from ..model.modeling import ViTHybridForImageClassification

QUERY_AND_VALUE = ("query", "value")
CLASSIFIER = "classifier"

# (IA)^3 rescales keys, values, and what the feed-forward part is about to project back (arXiv 2205.05638).
FEED_FORWARD = r".*\.layer\.\d+\.output\.dense"
KEY_VALUE_FEED_FORWARD = rf"(.*\.attention\.attention\.(key|value)|{FEED_FORWARD})"

# What PEFT's configurations hold that is no setting of a method, or that `add_adapter` sets itself.
NOT_OPTIONS = {
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
}


@dataclass(frozen=True)
class Method:
    """A method of PEFT.

    Attributes:
        peft_type: Its name in PEFT.
        defaults: Options that differ from PEFT's own defaults.
        also_called: Short names of options beside PEFT's own.
        fixed: Options that make the method what it is.
    """

    peft_type: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    also_called: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)


_LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
_LORA_NAMES = {"alpha": "lora_alpha", "dropout": "lora_dropout"}
_LOW_RANK = {"r": 8, "alpha": 16}

METHODS = {
    "lora": Method("LORA", _LORA, _LORA_NAMES),
    "dora": Method("LORA", _LORA, _LORA_NAMES, {"use_dora": True}),
    "loha": Method("LOHA", _LOW_RANK, {"dropout": "module_dropout"}),
    "lokr": Method("LOKR", _LOW_RANK, {"dropout": "module_dropout"}),
    "ia3": Method("IA3", {"target_modules": KEY_VALUE_FEED_FORWARD, "feedforward_modules": FEED_FORWARD}),
    "adalora": Method("ADALORA", {"lora_alpha": 16, "lora_dropout": 0.0}, {"r": "target_r", **_LORA_NAMES}),
    "vera": Method("VERA", {}, {"dropout": "vera_dropout"}),
    "oft": Method("OFT", {}, {"dropout": "module_dropout"}),
}


def add_adapter(model: ViTHybridForImageClassification, method: str = "lora", **options: Any) -> nn.Module:
    """Freezes the model, and puts trainable adapters into it and a trainable copy of its classifier.

    Adapters sit at the query and value projections of each encoder layer, (IA)^3's at keys, values and the
    feed-forward parts, unless `target_modules` says otherwise.

    Args:
        model: The model; it is changed in place.
        method: One of `METHODS`: "lora" (arXiv 2106.09685; of rank 8, alpha 16, no dropout), "dora" (2402.09353),
            "loha" (2108.06098), "lokr" (2212.10650), "ia3" (2205.05638), "adalora" (2303.10512), "vera" (2310.11454),
            "oft" (2306.07280).
        **options: Settings of the method as PEFT's configuration class calls them; "alpha" and "dropout" do for
            "lora_alpha", "lora_dropout" and the like. "adalora" needs `total_step`, and `allocate_ranks` at each step.

    Returns:
        The `PeftModel`: forward, `save_pretrained` and Trainer take it as they take the model.

    Raises:
        ImportError: If PEFT is not installed.
        ValueError: If the method or an option is unknown, or PEFT refuses the values.
    """
    row = METHODS.get(method)
    if row is None:
        raise ValueError(
            f"There is no adapter method {method!r}{_hint(method, METHODS) or '.'} There are: {_join(METHODS)}."
        )
    peft = _peft()
    config_class = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType[row.peft_type]]
    fields = {each.name: each.type for each in dataclasses.fields(config_class)}
    for name in NOT_OPTIONS | row.fixed.keys():
        fields.pop(name, None)
    if row.peft_type == "ADALORA":
        del fields["r"]  # which it inherits and warns of
    given: dict[str, Any] = {}
    for name, value in options.items():
        full_name = row.also_called.get(name, name)
        if full_name not in fields:
            known = sorted(fields.keys() | row.also_called.keys())
            raise ValueError(f"{method} has no option {name!r}{_hint(name, known) or f'. It has: {_join(known)}.'}")
        if full_name in given:
            raise ValueError(f"{method} is given {full_name!r} twice, once as {name!r}; give it once.")
        _check_type(f"{method}: {name}", value, fields[full_name])
        given[full_name] = list(value) if isinstance(value, tuple) else value
    defaults = {"target_modules": list(QUERY_AND_VALUE), "modules_to_save": [CLASSIFIER], **row.defaults}
    if "target_modules" in given and "feedforward_modules" in defaults:
        defaults["feedforward_modules"] = []
    for name in {**defaults, **given}["modules_to_save"] or ():
        if not any(f".{module}".endswith(f".{name}") for module, _ in model.named_modules()):
            raise ValueError(f"{method}: modules_to_save has {name!r}, and the model has no module of that name.")
    try:
        config = config_class(**{**defaults, **given, **row.fixed})
        with _without_news_of_renaming():
            return peft.get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{method}: {one_line(error)}") from error


def allocate_ranks(model: nn.Module, step: int) -> None:
    """Lets AdaLoRA move ranks to where they matter; for all other models and methods nothing happens.

    To be called behind each optimizer step, before the gradients are cleared.

    Args:
        model: What `add_adapter` gave, without DDP around it.
        step: Optimizer steps made so far, without this one.
    """
    update = getattr(getattr(model, "base_model", None), "update_and_allocate", None)
    if update is not None:
        update(step)


def merge(model: nn.Module) -> ViTHybridForImageClassification:
    """The plain model, with what the adapters learned in its own weights, and nothing frozen.

    Args:
        model: What `add_adapter` gave, trained; it cannot be used any more. A plain model comes back as it is.

    Raises:
        TypeError: If it is neither, such as a model that DDP or `torch.compile` is still around.
        ValueError: If the merged weights would hold NaN.
    """
    if isinstance(model, ViTHybridForImageClassification):
        return model
    unload = getattr(model, "merge_and_unload", None)
    if unload is None:
        raise TypeError(
            f"Cannot merge adapters of a {type(model).__name__}; give what `add_adapter` gave, without a wrapper."
        )
    with _without_news_of_renaming():
        merged = unload(safe_merge=True)
    if not isinstance(merged, ViTHybridForImageClassification):
        raise TypeError(f"The adapters are of a {type(merged).__name__}, not of a ViTHybridForImageClassification.")
    return merged.requires_grad_(True)


def _peft() -> ModuleType:
    try:
        import peft
        import peft.mapping
    except ImportError as error:
        raise ImportError("adapters need peft: pip install 'vit-hybrid[peft]'") from error
    return peft


def _check_type(what: str, value: Any, expected: Any) -> None:
    """Refuses texts for numbers and the like, which PEFT would take and stumble over later."""
    if expected in (bool, "bool") and not isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}; give true or false.")
    if expected in (int, float, "int", "float") and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{what} is {value!r}; give a number.")


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else ""


def _join(names: Iterable[str]) -> str:
    return ", ".join(names)


class _without_news_of_renaming(warnings.catch_warnings):
    """PEFT 0.21 reads a property that transformers 5.23 has renamed: nothing that our users could change."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return entered


__all__ = ["METHODS", "add_adapter", "allocate_ranks", "merge"]
