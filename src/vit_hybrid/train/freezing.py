"""Freezing a hybrid by its parts: stages of the ResNet, the embeddings, the first layers of the encoder."""

import difflib
import re

from torch import nn

from ..model.backbone import DropPath
from ..model.modeling import ViTHybridLayer, ViTHybridSelfAttention
from .parameters import HEAD, layer_of, layers

BACKBONE = "backbone"
EMBEDDINGS = "embeddings"
ENCODER = "encoder"
ALL_BUT_HEAD = "all_but_head"

_STAGE = re.compile(r"(stage\d+)\.block\d+")


def freezable_parts(model: nn.Module) -> dict[str, list[str]]:
    """What `freeze` can be told: names of parts, and the layers (as in `parameters.layers`) that each is made of.

    "stem", "stage1" and so on, "backbone" (the stem and all stages), "embeddings" (projection, tokens, position
    embeddings), "encoder.1", "encoder.2" and so on (the first 1, 2, ... layers of the encoder), "all_but_head".
    """
    names = [name for name, _ in layers(model) if name != HEAD]
    backbone = names[: names.index(EMBEDDINGS)] if EMBEDDINGS in names else []
    encoder = [name for name in names if name.startswith(f"{ENCODER}.")]
    parts: dict[str, list[str]] = {}
    for name in backbone:
        stage = _STAGE.fullmatch(name)
        parts.setdefault(stage[1] if stage else name, []).append(name)
    parts[BACKBONE] = backbone
    parts[EMBEDDINGS] = [EMBEDDINGS]
    parts |= {name: encoder[: index + 1] for index, name in enumerate(encoder)}
    parts[ALL_BUT_HEAD] = names
    return parts


def freeze(model: nn.Module, up_to: str | list[str]) -> int:
    """Freezes parts of a model for good: their weights stay, and they drop nothing while the rest trains.

    Dropout, attention dropout and stochastic depth inside the frozen parts are set to 0, so that these compute in
    training what they compute in evaluation, also behind `model.train()`. The configuration keeps its rates: a model
    that is loaded anew drops again. Dropout inside of adapters (PEFT) that sit in frozen parts is set to 0 as well.

    Args:
        model: A hybrid, also one wrapped by PEFT or DDP.
        up_to: One name: everything from the pixels up to that part and with it. A list of names: just these parts,
            whatever lies before them. `freezable_parts` says which names there are; an empty list freezes nothing.

    Returns:
        How many numbers (not tensors) remain trainable.

    Raises:
        ValueError: If a name is unknown; the message has the nearest and all. Nothing is frozen then.
    """
    parts = freezable_parts(model)
    wanted = [up_to] if isinstance(up_to, str) else list(up_to)
    for name in wanted:
        if name not in parts:
            raise ValueError(_unknown(name, list(parts)))
    chosen = {layer for name in wanted for layer in parts[name]}
    every = layers(model)
    if isinstance(up_to, str):
        names = [name for name, _ in every]
        chosen = set(names[: max(names.index(layer) for layer in chosen) + 1])
    by_name = dict(model.named_parameters())
    for layer, members in every:
        if layer in chosen:
            for member in members:
                by_name[member].requires_grad_(False)
    _drop_nothing_in(model, chosen)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _drop_nothing_in(model: nn.Module, frozen_layers: set[str]) -> None:
    """Sets every rate inside of frozen layers to 0.

    Rates rather than evaluation mode: `model.train()`, which Trainer calls at each step, would end that.
    """
    for name, module in model.named_modules():
        if layer_of(f"{name}.") not in frozen_layers:
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.rate = 0.0
        elif isinstance(module, ViTHybridLayer):
            module.drop_path_rate = 0.0
        elif isinstance(module, ViTHybridSelfAttention):
            module.dropout_prob = 0.0


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"There is no part {name!r} to freeze in this model{hint} There are: {', '.join(known)}."


__all__ = ["freezable_parts", "freeze"]
