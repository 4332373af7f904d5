"""Maps against the same computed with NumPy alone, by complex steps instead of backward passes, and with captum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tiny_hybrid import SMALL_BACKBONE, tiny_config

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.explain import Explainer, Explanation
from vit_hybrid.explain.attention import fused, rollout
from vit_hybrid.explain.gradients import legrad, relevance
from vit_hybrid.images.preprocessing import Preprocessing

TOLERANCE = 1e-5
LABEL = 2
STEP = 1e-30  # in the imaginary direction, where nothing cancels out
# What pictures are brought to, and whether the position embeddings fit that.
SIZES = {"square": (24, 24), "wide": (24, 40), "tall": (40, 24), "another": (16, 40)}


def model_for(size: str, attention: str = "eager", folded: bool = False, **changes: Any) -> Any:
    """A random model, whose weights are large enough that attention differs from place to place."""
    torch.manual_seed(len(size))
    fields = {"image_size": list(SIZES["square" if size == "another" else size]), "hidden_act": "relu"}
    config = tiny_config(backbone_config=_backbone(), num_hidden_layers=3, **{**fields, **changes})
    model = ViTHybridForImageClassification(config).eval()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        for parameter in model.vit.encoder.parameters():
            parameter.mul_(4)
        model.classifier.weight.mul_(10)
    return model.fold_weight_standardization() if folded else model


def _backbone() -> dict[str, Any]:
    fixed = {"layer_type": "bottleneck", "global_padding": "same", "embedding_dynamic_padding": True}
    return {**SMALL_BACKBONE, **fixed, "out_features": ["stage2"], "depths": [1, 2, 1]}


def prepared(size: str) -> tuple[np.ndarray, Preprocessing]:
    """A picture's pixel values, which preprocessing leaves as they are."""
    pixels = np.random.default_rng(3).standard_normal((3, *SIZES[size])).astype(np.float32)
    return pixels, Preprocessing(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)


def explained(model: Any, size: str, method: str, **how: Any) -> Explanation:
    pixels, preprocessing = prepared(size)
    [found] = Explainer(model, preprocessing).explain(pixels, method, LABEL, **how)
    return found


def grid_of(size: str) -> tuple[int, int]:
    """(rows, columns) of the tokens, of 8 pixels each."""
    height, width = SIZES[size]
    return height // 8, width // 8


EVERYWHERE = pytest.mark.parametrize(
    ("size", "attention", "folded"),
    [
        *((size, "eager", False) for size in SIZES),
        *((size, "sdpa", True) for size in SIZES),
        ("square", "eager", True),
        ("wide", "sdpa", False),
    ],
)


class InNumpy:
    """The encoder and the classifier in NumPy, in double precision, to whose attention weights something is added.

    Shapes: B variants, H heads, T tokens, D = hidden_size.
    """

    def __init__(self, model: Any, pixels: np.ndarray) -> None:
        with torch.no_grad():
            tokens = model.vit.embeddings(torch.tensor(pixels)[None], interpolate_pos_encoding=True)
        self.tokens = tokens[0].double().numpy()
        self.weights = {name: one.detach().double().numpy() for name, one in model.state_dict().items()}
        self.layers, self.heads = model.config.num_hidden_layers, model.config.num_attention_heads
        self.eps = model.config.layer_norm_eps

    def logits(self, layer: int | None = None, added: np.ndarray | None = None) -> np.ndarray:
        """(B, labels), with something (B, H, T, T) added to a layer's attention weights."""
        return self._head(self._tokens(self.layers, layer, added))

    def attentions(self) -> list[np.ndarray]:
        """(H, T, T) of each layer."""
        self.seen: list[np.ndarray] = []
        self.logits()
        return [one[0].real for one in self.seen]

    def gradients(self, up_to: int | None = None) -> Iterator[np.ndarray]:
        """Of the logit by the attention of each layer, (H, T, T); with `up_to` of that which its own tokens give."""
        count = len(self.tokens)
        for layer in range(self.layers):
            steps = np.eye(self.heads * count * count).reshape(-1, self.heads, count, count) * (STEP * 1j)
            last = self.layers if up_to is None else layer + 1
            logits = self._head(self._tokens(last, layer, steps))
            yield (logits[:, LABEL].imag / STEP).reshape(self.heads, count, count)

    def _tokens(self, layers: int, layer: int | None, added: np.ndarray | None) -> np.ndarray:
        x = self.tokens[None].astype(complex)
        self.seen = []
        for number in range(layers):
            name = f"vit.encoder.layer.{number}"
            normed = self._norm(x, f"{name}.layernorm_before")
            query, key, value = (
                self._heads(self._linear(normed, f"{name}.attention.attention.{part}"))
                for part in ("query", "key", "value")
            )
            scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
            weights = np.exp(scores - scores.real.max(-1, keepdims=True))
            weights = weights / weights.sum(-1, keepdims=True)
            self.seen.append(weights)
            if number == layer:
                weights = weights + added
            context = (weights @ value).swapaxes(1, 2)
            x = x + self._linear(context.reshape(*context.shape[:2], -1), f"{name}.attention.output.dense")
            wide = self._linear(self._norm(x, f"{name}.layernorm_after"), f"{name}.intermediate.dense")
            x = x + self._linear(np.where(wide.real > 0, wide, 0), f"{name}.output.dense")
        return x

    def _head(self, tokens: np.ndarray) -> np.ndarray:
        return self._linear(self._norm(tokens, "vit.layernorm")[:, 0], "classifier")

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centered = x - x.mean(-1, keepdims=True)
        variance = (centered**2).mean(-1, keepdims=True)
        return centered / np.sqrt(variance + self.eps) * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _heads(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Within the tolerance, and neither is a map of nothing."""
    assert found.shape == expected.shape
    assert np.ptp(expected) > 100 * TOLERANCE
    return bool(np.abs(found - expected).max() < TOLERANCE)


@EVERYWHERE
def test_rollout(size: str, attention: str, folded: bool) -> None:
    model = model_for(size, attention, folded)
    expected = np.eye(1 + explained(model, size, "rollout").map.size)
    for weights in InNumpy(model, prepared(size)[0]).attentions():
        expected = (0.5 * weights.mean(0) + 0.5 * np.eye(len(expected))) @ expected
    found = explained(model, size, "rollout")
    assert found.grid == found.map.shape == grid_of(size)
    assert close(found.map, expected[0, 1:].reshape(found.grid))
    assert close(
        explained(model, size, "rollout", token=(1, 2)).map, expected[1 + found.grid[1] + 2, 1:].reshape(found.grid)
    )


@EVERYWHERE
def test_relevance(size: str, attention: str, folded: bool) -> None:
    model = model_for(size, attention, folded)
    reference = InNumpy(model, prepared(size)[0])
    expected = np.eye(len(reference.tokens))
    for weights, gradient in zip(reference.attentions(), [*reference.gradients()], strict=True):
        expected = expected + (weights * gradient).clip(0).mean(0) @ expected
    found = explained(model, size, "relevance").map
    assert close(found, expected[0, 1:].reshape(grid_of(size)))


@EVERYWHERE
def test_legrad(size: str, attention: str, folded: bool) -> None:
    model = model_for(size, attention, folded)
    reference = InNumpy(model, prepared(size)[0])
    # With the mean over rows, of which all but the class token's are nothing, the maps are small.
    expected = np.mean([one.clip(0).sum((0, 1)) for one in reference.gradients(up_to=1)], axis=0)
    found = explained(model, size, "legrad").map
    rows = reference.heads * len(reference.tokens)
    assert close(found * rows, expected[1:].reshape(grid_of(size)))


@EVERYWHERE
@pytest.mark.parametrize("stage", ["stem", "stage1", "stage2"])
def test_grad_cam_on_the_resnet(size: str, attention: str, folded: bool, stage: str) -> None:
    captum = pytest.importorskip("captum.attr")
    model = model_for(size, attention, folded)
    bit = model.vit.embeddings.patch_embeddings.backbone.bit
    module = bit.embedder if stage == "stem" else bit.encoder.stages[int(stage[-1]) - 1]
    forward = lambda pixels: model(pixels, interpolate_pos_encoding=True).logits  # noqa: E731
    pixels = torch.tensor(prepared(size)[0])[None].requires_grad_()
    expected = captum.LayerGradCam(forward, module).attribute(pixels, target=LABEL, relu_attributions=True)
    found = explained(model, size, "grad-cam", layer=stage)
    assert found.layer == stage
    assert close(found.map, expected[0, 0].detach().numpy())


@EVERYWHERE
def test_grad_cam_on_the_encoder(size: str, attention: str, folded: bool) -> None:
    model = model_for(size, attention, folded)
    with torch.no_grad():
        tokens = model.vit.embeddings(torch.tensor(prepared(size)[0])[None], interpolate_pos_encoding=True)
        tokens = model.vit.encoder.layer[0](tokens)[0]
    tokens.requires_grad_()
    x = tokens
    for layer in model.vit.encoder.layer[1:]:
        x = layer(x)[0]
    [gradient] = torch.autograd.grad(model.classifier(model.vit.layernorm(x)[:, 0])[0, LABEL], tokens)
    weights = gradient[0, 1:].numpy().mean(0)
    expected = (tokens.detach()[0, 1:].numpy() @ weights).clip(0)
    found = explained(model, size, "grad-cam", layer=1).map
    assert close(found, expected.reshape(grid_of(size)))


@pytest.mark.parametrize(("fusion", "discard"), [("max", 0.0), ("mean", 0.4), ("min", 0.2)])
def test_rollout_as_it_is_asked_for(fusion: Any, discard: float) -> None:
    model = model_for("tall")
    expected = rollout(InNumpy(model, prepared("tall")[0]).attentions(), fusion, discard)
    found = explained(model, "tall", "rollout", fusion=fusion, discard=discard)
    assert close(found.map, expected[0, 1:].reshape(found.grid))


def test_single_layers_and_heads() -> None:
    model = model_for("wide", "sdpa")
    for number, weights in enumerate(InNumpy(model, prepared("wide")[0]).attentions(), start=1):
        for head in (1, 2):
            found = explained(model, "wide", "attention", layer=number, head=head)
            assert (found.layer, found.head, found.label) == (f"layer{number}", head, None)
            assert close(found.map, weights[head - 1, 0, 1:].reshape(found.grid))
        found = explained(model, "wide", "attention", layer=f"layer{number}", fusion="max")
        assert close(found.map, weights.max(0)[0, 1:].reshape(found.grid))
        token = explained(model, "wide", "attention", layer=number, token=(2, 3), fusion="min")
        assert close(token.map, weights.min(0)[1 + 2 * 5 + 3, 1:].reshape(found.grid))
    last = explained(model, "wide", "attention")
    assert (last.layer, last.head) == ("layer3", None)
    assert close(last.map, weights.mean(0)[0, 1:].reshape(last.grid))


def test_all_heads_at_once_are_the_single_ones() -> None:
    model = model_for("tall")
    pixels, preprocessing = prepared("tall")
    found = Explainer(model, preprocessing).heads(pixels)
    assert found.shape == (3, 2, 5, 3)
    for layer, head in ((2, 1), (1, 2), (3, 2)):
        assert close(found[layer - 1, head - 1], explained(model, "tall", "attention", layer=layer, head=head).map)


class TestRollout:
    attentions = np.random.default_rng(0).dirichlet(np.full(7, 0.2), size=(2, 3, 7))  # (L, H, T, T)

    def test_rows_sum_to_one_whatever_the_fusion_and_what_is_left_out(self) -> None:
        for fusion in ("mean", "max", "min"):
            for discard in (0.0, 0.6):
                found = rollout(self.attentions, fusion, discard)
                assert found.sum(-1) == pytest.approx(1)
                assert (found >= 0).all()

    def test_the_last_layer_stands_to_the_left(self) -> None:
        first, second = (0.5 * fused(one) + 0.5 * np.eye(7) for one in self.attentions)
        assert rollout(self.attentions) == pytest.approx(second @ first)

    def test_the_smallest_weights_count_as_zero(self) -> None:
        weights = self.attentions[0].mean(0)
        for share, count in ((0.5, 24), (0.55, 26)):  # of 49 weights as many as are whole in the share
            kept = np.where(weights > np.sort(weights, axis=None)[count - 1], weights, 0)
            assert (kept == 0).sum() == count
            kept[0, 0] = weights[0, 0]
            mixed = 0.5 * kept + 0.5 * np.eye(7)
            assert rollout(self.attentions[:1], discard=share) == pytest.approx(mixed / mixed.sum(-1, keepdims=True))

    def test_heads_become_one_as_is_asked_before_the_smallest_go(self) -> None:
        for fusion in ("mean", "max", "min"):
            weights = getattr(np, fusion)(self.attentions[0], axis=0)
            mixed = 0.5 * weights + 0.5 * np.eye(7)
            assert rollout(self.attentions[:1], fusion) == pytest.approx(mixed / mixed.sum(-1, keepdims=True))
            kept = np.where(weights > np.sort(weights, axis=None)[13], weights, 0)  # but for 14 of 49
            kept[0, 0] = weights[0, 0]
            mixed = 0.5 * kept + 0.5 * np.eye(7)
            found = rollout(self.attentions[:1], fusion, 0.3)
            assert found == pytest.approx(mixed / mixed.sum(-1, keepdims=True))

    def test_attention_to_nothing_but_oneself_is_the_identity(self) -> None:
        assert rollout(np.tile(np.eye(5), (4, 2, 1, 1))) == pytest.approx(np.eye(5))

    @pytest.mark.parametrize("discard", [-0.1, 1.0, float("nan")])
    def test_a_share_that_is_none_is_refused(self, discard: float) -> None:
        with pytest.raises(ValueError, match=r"discard is .*; expected a share of 0 or more and below 1"):
            rollout(self.attentions, discard=discard)

    def test_no_layers_and_no_such_fusion_are_refused(self) -> None:
        for nothing in (lambda: rollout([]), lambda: relevance([], []), lambda: legrad([])):
            with pytest.raises(ValueError, match="the encoder has no layers"):
                nothing()
        with pytest.raises(ValueError, match="fusion is 'sum'; expected mean, max, min"):
            rollout(self.attentions, "sum")
