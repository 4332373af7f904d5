"""What a classifier of transformers' is while it is explained, and afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_hybrid import tiny_config

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.explain.hybrid import Classifier, as_hybrid
from vit_hybrid.explain.passes import logits_of, through


@pytest.mark.parametrize("training", [[], ["vit.encoder.layer.1"], ["vit.encoder.layer.0", "classifier"], [""]])
def test_it_evaluates_for_a_while_whatever_parts_are_trained(training: list[str]) -> None:
    torch.manual_seed(0)
    model = ViTHybridForImageClassification(tiny_config(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5))
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    expected = logits_of(model.eval(), pixels)
    for name in training:
        model.get_submodule(name).train()
    before = {name: module.training for name, module in model.named_modules()}
    assert any(before.values()) == bool(training)
    np.testing.assert_array_equal(logits_of(model, pixels), expected)
    assert {name: module.training for name, module in model.named_modules()} == before
    with through(model, pixels[0], []) as run:
        assert run.value("logits") == pytest.approx(expected[0], abs=1e-5)
        with pytest.raises(RuntimeError, match="does not require grad"):  # nothing is kept for gradients
            run.gradients(0, ["logits"])

    def interrupted() -> None:
        with Classifier(model).evaluating():
            assert not any(module.training for module in model.modules())
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        interrupted()
    assert {name: module.training for name, module in model.named_modules()} == before


def test_what_stands_for_a_classifier_is_taken_as_it_is() -> None:
    hybrid = as_hybrid(ViTHybridForImageClassification(tiny_config()))
    assert isinstance(hybrid, Classifier)
    assert as_hybrid(hybrid) is hybrid
