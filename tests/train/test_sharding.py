"""Sharding by hand; in several processes it is tried in test_distributed.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_hybrid import tiny_config

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.model.modeling import ViTHybridLayer
from vit_hybrid.train import sharding


def test_every_block_and_then_the_rest_are_sharded_in_the_way_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[torch.nn.Module, dict[str, Any]]] = []
    monkeypatch.setattr(sharding, "fully_shard", lambda module, **how: asked.append((module, how)))
    model = ViTHybridForImageClassification(tiny_config())
    mesh: Any = object()
    assert sharding.shard(model, mesh, reshard_after_forward=False) is model
    *blocks, (last, _) = asked
    assert last is model
    assert sum(isinstance(block, ViTHybridLayer) for block, _ in blocks) == 2
    assert len(blocks) == 2 + 2  # a block of each of two stages
    assert [how for _, how in asked] == [{"mesh": mesh, "reshard_after_forward": False}] * 5
