"""A hybrid's layers from input to output, and its parameters in groups as optimizers take them."""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

# Where a parameter sits. Prefixes may stand before these names, as PEFT, DDP and `torch.compile` put them there, and
# PEFT's own names behind them.
STEM = re.compile(r"(?:^|\.)patch_embeddings\.backbone\.bit\.embedder\.")
BLOCK = re.compile(r"(?:^|\.)patch_embeddings\.backbone\.bit\.encoder\.stages\.(\d+)\.layers\.(\d+)\.")
LAST_NORM = re.compile(r"(?:^|\.)patch_embeddings\.backbone\.bit\.norm\.")
EMBEDDINGS = re.compile(r"(?:^|\.)embeddings\.")
ENCODER_LAYER = re.compile(r"(?:^|\.)encoder\.layer\.(\d+)\.")

# Tokens and position embeddings: learned inputs rather than weights, so that no decay pulls them to zero.
LEARNED_INPUTS = re.compile(r"(?:^|\.)(?:cls_token|mask_token|position_embeddings)(?:\.|$)")
# (IA)^3's factors, which stand at 1 where nothing is learned.
FACTORS = re.compile(r"\.ia3_l\.")
CLASSIFIER = re.compile(r"(?:^|\.)classifier\.")

HEAD = "head"

# A layer's place: the part of the model, and inside of it the stage and the block or the encoder layer.
Place = tuple[int, int, int]
_STEM, _BLOCKS, _EMBEDDINGS, _ENCODER, _HEAD = range(5)


def layers(model: nn.Module) -> list[tuple[str, list[str]]]:
    """The layers of a hybrid from input to output: their names, and the names of their parameters.

    The ResNet's stem is one layer, each of its blocks another, so are the projection with tokens and position
    embeddings, each encoder layer, and the head (final norm, pooler or pre-logits, classifier). R50+B/16, say, has
    1 + (3 + 4 + 9) + 1 + 12 + 1 = 31 of them. The norm behind a pre-activation ResNet goes with its last block.

    Args:
        model: A hybrid of any class, also one wrapped by PEFT, DDP or `torch.compile`.

    Returns:
        Pairs of a name and parameter names as `model.named_parameters()` gives them, frozen ones included. The names:
        "stem", "stage1.block1", ..., "embeddings", "encoder.1", ..., "head".
    """
    names = [name for name, _ in model.named_parameters()]
    places = {name: place for name in names if (place := _place(name)) is not None}
    last_of_backbone = max((place for place in places.values() if place[0] <= _BLOCKS), default=(_STEM, 0, 0))
    members: dict[Place, list[str]] = {}
    for name in names:
        members.setdefault(places.get(name, last_of_backbone), []).append(name)
    return [(_layer_name(place), members[place]) for place in sorted(members)]


def layer_of(name: str) -> str | None:
    """The layer, as `layers` calls it, that a parameter or module of that name lies in (a module's with a dot behind).

    None for the norm behind a pre-activation ResNet, as its layer depends on the number of blocks.
    """
    place = _place(name)
    return None if place is None else _layer_name(place)


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    head_multiplier: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups of parameters for one of torch's optimizers, with layer-wise learning-rate decay.

    The head learns at the full rate, each layer before it at `layer_decay` times the rate of the one behind (as in
    BEiT, arXiv 2106.08254, with the ResNet's stem and blocks counted as layers of their own; see `layers`). Weights
    decay; norms, biases, tokens and position embeddings do not.

    Args:
        model: The model; its frozen parameters are left out.
        learning_rate: Rate of the head, before `head_multiplier`.
        weight_decay: Decay of the weights.
        layer_decay: Factor from each layer to the one before it, above 0 and at most 1.
        head_multiplier: Additional factor on the head's rate alone.

    Returns:
        Dictionaries of "name" (for logs), "params", "lr" and "weight_decay", from input to output; neighboring layers
        of equal rate share theirs.

    Raises:
        ValueError: If a number is out of its range, or nothing is trainable.
    """
    _check(learning_rate, weight_decay, layer_decay)
    if head_multiplier < 0:
        raise ValueError(f"The head's multiplier is {head_multiplier}; give 0 or more.")
    groups: list[dict[str, Any]] = []
    for run, factor in _runs(model, layer_decay, head_multiplier):
        for kind, params in (
            ("decay", [parameter for name, parameter in run.parameters if decays(name, parameter)]),
            ("no decay", [parameter for name, parameter in run.parameters if not decays(name, parameter)]),
        ):
            if params:
                groups.append(
                    {
                        "name": f"{run.name}, {kind}",
                        "params": params,
                        "lr": learning_rate * factor,
                        "weight_decay": weight_decay if kind == "decay" else 0.0,
                    }
                )
    return groups


def muon_groups(
    model: nn.Module,
    learning_rate: float,
    adam_learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups of parameters for `Muon`: it gets the matrices and kernels inside the network, AdamW all the rest.

    The rest is the ResNet's first convolution, tokens and position embeddings, norms, biases, and the classifier.
    Decay and layers are those of `parameter_groups`.

    Args:
        model: The model; its frozen parameters are left out.
        learning_rate: Muon's rate behind the last layer.
        adam_learning_rate: AdamW's rate there.
        weight_decay: Decay of the weights, of both.
        layer_decay: Factor from each layer to the one before it, above 0 and at most 1.

    Returns:
        Dictionaries of "name", "params", "lr", "weight_decay" and "use_muon", from input to output.

    Raises:
        ValueError: If a number is out of its range, or nothing is trainable.
    """
    _check(learning_rate, weight_decay, layer_decay)
    _check(adam_learning_rate, weight_decay, layer_decay)
    groups: list[dict[str, Any]] = []
    for run, factor in _runs(model, layer_decay, 1.0):
        hidden = [(name, parameter) for name, parameter in run.parameters if is_hidden_matrix(name, parameter)]
        rest = [(name, parameter) for name, parameter in run.parameters if not is_hidden_matrix(name, parameter)]
        for kind, params, rate in (
            ("Muon", [parameter for _, parameter in hidden], learning_rate),
            ("AdamW, decay", [parameter for name, parameter in rest if decays(name, parameter)], adam_learning_rate),
            ("AdamW", [parameter for name, parameter in rest if not decays(name, parameter)], adam_learning_rate),
        ):
            if params:
                groups.append(
                    {
                        "name": f"{run.name}, {kind}",
                        "params": params,
                        "lr": rate * factor,
                        "weight_decay": 0.0 if kind == "AdamW" else weight_decay,
                        "use_muon": kind == "Muon",
                    }
                )
    return groups


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: not to norms and biases, which have one dimension, learned inputs, and factors."""
    return parameter.ndim > 1 and not LEARNED_INPUTS.search(name) and not FACTORS.search(name)


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes the parameter: a matrix or kernel between the first convolution and the classifier."""
    return decays(name, parameter) and not STEM.search(name) and not CLASSIFIER.search(name)


class _Run:
    """Neighboring layers of one learning rate, and their trainable parameters."""

    def __init__(self, first: str) -> None:
        self.first = self.last = first
        self.parameters: list[tuple[str, nn.Parameter]] = []

    @property
    def name(self) -> str:
        return self.first if self.first == self.last else f"{self.first} to {self.last}"


def _runs(model: nn.Module, layer_decay: float, head_multiplier: float) -> Iterator[tuple[_Run, float]]:
    """Trainable parameters from input to output, each run with the factor on its learning rate."""
    by_name = dict(model.named_parameters())
    every = layers(model)
    runs: list[tuple[_Run, float]] = []
    for index, (layer, names) in enumerate(every):
        trainable = [(name, by_name[name]) for name in names if by_name[name].requires_grad]
        factor = layer_decay ** (len(every) - 1 - index) * (head_multiplier if layer == HEAD else 1.0)
        if not trainable:
            continue
        if not runs or runs[-1][1] != factor:
            runs.append((_Run(layer), factor))
        runs[-1][0].last = layer
        runs[-1][0].parameters += trainable
    if not runs:
        raise ValueError("No parameter of the model is trainable; freeze less of it.")
    yield from runs


def _place(name: str) -> Place | None:
    """Where a parameter belongs; None: to the backbone's last layer, whichever that is."""
    if LAST_NORM.search(name):
        return None
    if STEM.search(name):
        return (_STEM, 0, 0)
    if match := BLOCK.search(name):
        return (_BLOCKS, int(match[1]), int(match[2]))
    if EMBEDDINGS.search(name):
        return (_EMBEDDINGS, 0, 0)
    if match := ENCODER_LAYER.search(name):
        return (_ENCODER, 0, int(match[1]))
    return (_HEAD, 0, 0)


def _layer_name(place: Place) -> str:
    part, stage, index = place
    return {
        _STEM: "stem",
        _BLOCKS: f"stage{stage + 1}.block{index + 1}",
        _EMBEDDINGS: "embeddings",
        _ENCODER: f"encoder.{index + 1}",
        _HEAD: HEAD,
    }[part]


def _check(learning_rate: float, weight_decay: float, layer_decay: float) -> None:
    if not learning_rate >= 0:
        raise ValueError(f"The learning rate is {learning_rate}; give 0 or more.")
    if not weight_decay >= 0:
        raise ValueError(f"The weight decay is {weight_decay}; give 0 or more.")
    if not 0 < layer_decay <= 1:
        raise ValueError(
            f"The layer decay is {layer_decay}; give a factor above 0 and at most 1 (1: all layers alike)."
        )


__all__ = ["HEAD", "decays", "is_hidden_matrix", "layer_of", "layers", "muon_groups", "parameter_groups"]
