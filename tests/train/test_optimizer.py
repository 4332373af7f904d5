"""The optimizer of a recipe, and that each of its fields reaches it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.train.muon import Muon
from vit_hybrid.train.optimizer import build_optimizer
from vit_hybrid.train.recipe import build_recipe

PLAIN = {"layer_decay": 1.0, "weight_decay": 0.0, "head_multiplier": 1.0, "learning_rate": 0.25}


def built(model: ViTHybridForImageClassification, **fields: Any) -> torch.optim.Optimizer:
    return build_optimizer(model, build_recipe({**PLAIN, **fields}))


@pytest.mark.parametrize(("given", "momentum"), [({}, 0.9), ({"momentum": 0.5}, 0.5), ({"momentum": 0.0}, 0.0)])
def test_sgd(given: dict[str, float], momentum: float, tiny_model: ViTHybridForImageClassification) -> None:
    optimizer = built(tiny_model, optimizer="sgd", **given)
    assert type(optimizer) is torch.optim.SGD
    how = {(group["momentum"], group["nesterov"], group["dampening"]) for group in optimizer.param_groups}
    assert how == {(momentum, False, 0)}
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}


@pytest.mark.parametrize(("given", "betas"), [({}, (0.9, 0.999)), ({"betas": (0.8, 0.95)}, (0.8, 0.95))])
def test_adamw(given: dict[str, Any], betas: tuple[float, float], tiny_model: ViTHybridForImageClassification) -> None:
    optimizer = built(tiny_model, optimizer="adamw", **given)
    assert type(optimizer) is torch.optim.AdamW
    how = {(tuple(group["betas"]), group["eps"], group["fused"]) for group in optimizer.param_groups}
    assert how == {(betas, 1e-8, True)}
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
    elsewhere = built(copy.deepcopy(tiny_model).to("meta"), optimizer="adamw", **given)
    assert not any(group["fused"] for group in elsewhere.param_groups)


@pytest.mark.parametrize(
    ("given", "momentum", "rate"),
    [({}, 0.95, 1e-3), ({"momentum": 0.5, "adam_learning_rate": 0.125, "betas": (0.8, 0.95)}, 0.5, 0.125)],
)
def test_muon(given: dict[str, Any], momentum: float, rate: float, tiny_model: ViTHybridForImageClassification) -> None:
    optimizer = built(tiny_model, optimizer="muon", **given)
    assert isinstance(optimizer, Muon)
    matrices = [group for group in optimizer.param_groups if group["use_muon"]]
    rest = [group for group in optimizer.param_groups if not group["use_muon"]]
    assert ({group["lr"] for group in matrices}, {group["lr"] for group in rest}) == ({0.25}, {rate})
    assert {group["momentum"] for group in matrices} == {momentum}
    assert {tuple(group["betas"]) for group in rest} == {given.get("betas", (0.9, 0.999))}


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_rates_and_decays_by_layer_reach_it(name: str, tiny_model: ViTHybridForImageClassification) -> None:
    fields = {"layer_decay": 0.5, "weight_decay": 0.125, "head_multiplier": 8.0, "adam_learning_rate": 0.25}
    groups = built(tiny_model, optimizer=name, **fields).param_groups
    head = [weight.data_ptr() for weight in tiny_model.classifier.parameters()]
    rates = {weight.data_ptr(): (group["lr"], group["weight_decay"]) for group in groups for weight in group["params"]}
    factor = 1.0 if name == "muon" else 8.0  # which has a rate of its own for the head
    assert [rates[place] for place in head] == [(0.25 * factor, 0.125), (0.25 * factor, 0.0)]
    last = tiny_model.vit.encoder.layer[-1].output.dense.weight.data_ptr()
    first = tiny_model.vit.encoder.layer[0].output.dense.weight.data_ptr()
    assert (rates[last], rates[first]) == ((0.125, 0.125), (0.0625, 0.125))
