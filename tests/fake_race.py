"""Engines that only move a clock, for tests of what races them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_hybrid.bundles import cache
from vit_hybrid.engines import EngineError, tuning
from vit_hybrid.engines.protocol import LoadedEngine, Specification
from vit_hybrid.engines.racing import Clock
from vit_hybrid.engines.ways import Way

SIDE = 32
# Milliseconds a picture, where nothing else is said.
SPEEDS = {"torch": 30.0, "openvino": 10.0, "onnx": 20.0}


class Hand:
    """A clock that engines move."""

    def __init__(self) -> None:
        self.time = 0.0
        self.loaded: list[Way] = []

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.time, lambda seconds: None, lambda: self.time)


class Fake(LoadedEngine):
    device = "cpu"

    def __init__(self, hand: Hand, way: Way, milliseconds: float) -> None:
        self.name, self.precision = way.engine, way.precision
        self.spec = Specification(("a", "b"), "single_label_classification", 3, (SIDE, SIDE))
        self._hand, self._milliseconds = hand, milliseconds
        self.model: Any = self
        self.config: Any = self
        self._attn_implementation = way.attention

    def set_attn_implementation(self, name: str) -> None:
        self._attn_implementation = name

    def _compute(self, values: Any) -> list[np.ndarray]:
        factor = 0.5 if self.name == "torch" and self._attn_implementation == "sdpa" else 1.0
        self._hand.time += factor * self._milliseconds / 1000 * len(values)
        return [np.zeros((len(values), 2), np.float32)]


def raced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hand:
    """The clock of engines that take the place of those there are, each as fast as `SPEEDS` says."""
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    hand = Hand()

    def load(name: str, progress: Any = None, **options: Any) -> Fake:
        way = Way(
            options["engine"],
            options["precision"],
            options["attention"],
            options["compile"],
            options["channels_last"],
            options["threads"],
        )
        hand.loaded.append(way)
        if way.engine != "torch":
            progress(f"Converting for {way.engine}")
            hand.time += 5.0
        factor = {"f32": 1.0, "bf16": 0.5, "int8": 0.6}[way.precision] * (2.0 if way.threads == 1 else 1.0)
        if way.engine == "onnx" and way.precision == "int8":
            raise EngineError("no kernel for this")
        return Fake(hand, way, factor * SPEEDS[way.engine])

    monkeypatch.setattr(tuning, "load", load)
    monkeypatch.setattr("vit_hybrid.engines.ways.usable_cores", lambda: 2)
    monkeypatch.setattr(tuning, "instruction_sets", lambda: ["x86_64", "avx512_bf16"])
    monkeypatch.setattr(tuning, "can_compile", lambda on_cpu: False)
    return hand
