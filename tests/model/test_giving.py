"""What a classifier gives beside its logits, held to the parts that it is made of."""

from __future__ import annotations

import pytest
import tiny_hybrid
import torch

from vit_hybrid.model.giving import giving
from vit_hybrid.model.token_merging import for_class_token, merge_tokens
from vit_hybrid.runtimes import LOGITS, OUTPUTS


@pytest.mark.parametrize("how", ["plain", "for the class token", "merging"])
@pytest.mark.parametrize("representation_size", [None, 12])
@torch.no_grad()
def test_gives_what_the_classifier_takes_and_the_class_token_before_the_last_norm(
    representation_size: int | None, how: str
) -> None:
    plain = tiny_hybrid.random_model(representation_size=representation_size)
    model = {"plain": plain, "for the class token": for_class_token(plain), "merging": merge_tokens(plain, 2)}[how]
    pixels = torch.randn(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    expected = model(pixels, output_hidden_states=True, interpolate_pos_encoding=True)
    for output, names in OUTPUTS.items():
        gives = giving(model, output)
        assert (gives is model) == (output == LOGITS)
        if output == LOGITS:
            continue
        found = gives(pixels, interpolate_pos_encoding=True)
        assert tuple(found) == names
        token = found.get("token", expected.hidden_states[-1][:, 0])
        assert torch.equal(token, expected.hidden_states[-1][:, 0])
        torch.testing.assert_close(found["features"], plain.pre_logits(plain.vit.layernorm(token)))
        torch.testing.assert_close(plain.classifier(found["features"]), expected.logits)
        assert torch.equal(found.get(LOGITS, expected.logits), expected.logits)
        assert found["features"].shape == (2, representation_size or 16)
