"""Token merging (Bolya et al., "Token Merging: Your ViT But Faster", arXiv 2210.09461): fewer tokens for the encoder.

Behind the attention of some layers, patch tokens whose keys are alike become one: their mean, weighted by how many
patches each stands for. From then on a token counts in attention for as many patches as it stands for.

Shapes: N images, T tokens, D = hidden_size, H heads, P pairs of patch tokens next to each other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from ..errors import EngineError
from ..runtimes import check_tokens_per_layer
from .geometry import merged_by_layer
from .modeling import ViTHybridEncoder, ViTHybridForImageClassification, ViTHybridSelfAttention


def merge_tokens(model: ViTHybridForImageClassification, token_merging: int) -> ViTHybridForImageClassification:
    """A classifier whose encoder merges tokens, for inference: faster, with other logits.

    Tokens are merged in three of the layers (`MERGING_PLACES`), as many in each as can be shared out evenly, and at
    most half of the patch tokens at a layer; what is too many is not merged. The class token stays itself. In the last
    layer only the class token goes on behind the keys and values, which changes no logits: the classifier reads nothing
    else.

    What it gains and loses, and why these three layers: docs/measured.md, "Token merging".

    Args:
        model: The classifier, in evaluation mode. It stays as it is; both share all layers and weights.
        token_merging: Tokens to merge per layer on average, r in the paper.

    Returns:
        A classifier of the same class and state dict. Its hidden states and attentions have as many tokens as there are
        at each layer.

    Raises:
        EngineError: If `token_merging` is not a number of 1 or more, or the model is in training mode.
    """
    check_tokens_per_layer(token_merging)
    if model.training:
        raise EngineError(
            "the model is in training mode, and tokens are merged for inference; call model.eval() first."
        )
    return _with_encoder(model, token_merging)


def for_class_token(model: ViTHybridForImageClassification) -> ViTHybridForImageClassification:
    """A classifier for inference whose last layer goes on with the class token alone behind the keys and values.

    The classifier reads nothing else, so the logits are the same, for a twelfth of an encoder of twelve layers less.

    Args:
        model: The classifier. It stays as it is; both share all layers and weights. One that merges tokens, and so does
            this already, is given back.
    """
    return model if isinstance(model.vit.encoder, _MergingEncoder) else _with_encoder(model, 0)


def _with_encoder(model: ViTHybridForImageClassification, token_merging: int) -> ViTHybridForImageClassification:
    copy = copy_around(model)
    copy.vit = copy_around(model.vit)
    copy.vit.encoder = _MergingEncoder(model.vit.encoder, token_merging)
    return copy


class _MergingEncoder(nn.Module):
    """An encoder's layers under the names that they have there, and fewer tokens from layer to layer."""

    def __init__(self, encoder: ViTHybridEncoder, token_merging: int) -> None:
        super().__init__()
        self.config = encoder.config
        self.layer = encoder.layer
        self.token_merging = token_merging
        self.training = False

    def forward(
        self,
        hidden_states: torch.Tensor,
        head_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """As `ViTHybridEncoder.forward`, with the tokens that there are at each layer; of the last, the class token."""
        all_hidden_states, all_attentions = [hidden_states], []
        sizes = None  # how many patches each token stands for, (N, T); None: each for itself
        by_layer = merged_by_layer(hidden_states.shape[1], len(self.layer), self.token_merging)
        for index, (layer, merged) in enumerate(zip(self.layer, by_layer, strict=True)):
            layer_head_mask = None if head_mask is None else head_mask[index]
            is_last = index == len(self.layer) - 1
            if sizes is None and not merged and not is_last:
                hidden_states, weights = layer(
                    hidden_states, layer_head_mask, output_attentions=output_attentions, **kwargs
                )
            else:
                hidden_states, sizes, weights = _forward(
                    layer, hidden_states, sizes, merged, is_last, layer_head_mask, output_attentions, **kwargs
                )
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
            all_attentions.append(weights)
        return BaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            attentions=tuple(all_attentions) if output_attentions else None,
        )


def _forward(
    layer: Any,  # `ViTHybridLayer`, which a `ModuleList` does not know
    hidden_states: torch.Tensor,
    sizes: torch.Tensor | None,
    merged: int,
    is_last: bool,
    head_mask: torch.Tensor | None,
    output_attentions: bool,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """`ViTHybridLayer.forward` in evaluation mode, for tokens of these sizes, `merged` of which are merged.

    Returns:
        The tokens (N, T - merged, D), of the last layer the class token alone; their sizes, and the attention weights.
    """
    context, weights, keys = _attend(
        layer.attention.attention,
        layer.layernorm_before(hidden_states),
        is_last,
        sizes,
        head_mask,
        output_attentions,
        **kwargs,
    )
    if is_last:
        hidden_states = hidden_states[:, :1]
    hidden_states = hidden_states + layer.attention.output(context)
    if merged:
        if sizes is None:
            sizes = torch.ones_like(hidden_states[:, :, 0], dtype=torch.float32)
        hidden_states, sizes = _merge(hidden_states, sizes, keys, merged)
    fed_forward = layer.output(layer.intermediate(layer.layernorm_after(hidden_states)))
    return hidden_states + fed_forward, sizes, weights


def _attend(
    attention: ViTHybridSelfAttention,
    hidden_states: torch.Tensor,
    for_class_token: bool,
    sizes: torch.Tensor | None,
    head_mask: torch.Tensor | None,
    output_attentions: bool,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """`ViTHybridSelfAttention.forward` with each token weighing as much as its size, for all tokens or the first.

    Returns:
        The context (N, T or 1, D), the weights (N, H, T or 1, T) where they are asked for, the keys (N, T, H, D / H).
    """
    heads = (attention.num_attention_heads, attention.attention_head_size)
    projected: tuple[torch.Tensor, ...]
    if for_class_token:
        projected = attention.query(hidden_states[:, :1]), attention.key(hidden_states), attention.value(hidden_states)
    else:
        projected = attention._projections(hidden_states)
    query, key, value = (part.unflatten(-1, heads) for part in projected)
    bias = None if sizes is None else sizes.log().to(query.dtype)[:, None, None, :]
    context, weights = attention.attend(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        bias,
        head_mask,
        output_attentions,
        **kwargs,
    )  # (N, T, H, D / H)
    return context.flatten(2), weights, key


def _merge(
    hidden_states: torch.Tensor, sizes: torch.Tensor, keys: torch.Tensor, merged: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bipartite soft matching (section 3 of the paper): the first of each pair of tokens goes into the second of
    whichever pair it is most like, if it is one of the `merged` that are most like theirs.

    All by products and comparisons. With a sort OpenVINO keeps the residual stream in float32, and ties would be broken
    differently by each engine.

    Returns:
        The tokens left (N, T - merged, D) and their sizes (N, T - merged): the class token, sources that stay, the most
        alike first, targets, and the token without a pair where the number of patch tokens is odd.
    """
    pairs = (hidden_states.shape[1] - 1) // 2
    sources, targets = _pairs(hidden_states)  # (N, P, D)
    source_sizes, target_sizes = _pairs(sizes)  # (N, P)
    source_keys, target_keys = _pairs(nn.functional.normalize(keys.float().mean(dim=2), dim=-1))
    similarity = torch.bmm(source_keys, target_keys.transpose(1, 2))  # (N, sources, targets)
    best = similarity.amax(dim=-1)  # (N, sources)
    rank = _rank(best)

    # What each source gives to each target. Several targets that are equally alike share it, as with plain areas.
    gifts = torch.where(similarity >= best.unsqueeze(-1), 1.0, 0.0)
    given = torch.where(rank < merged, source_sizes, 0.0) / gifts.sum(dim=-1)
    gifts = (gifts * given.unsqueeze(-1)).transpose(1, 2)  # (N, targets, sources)
    new_sizes = target_sizes + gifts.sum(dim=-1)
    places = torch.arange(merged, pairs, dtype=rank.dtype, device=rank.device)
    stays = torch.where(rank.unsqueeze(1) == places.unsqueeze(-1), 1.0, 0.0)  # (N, P - merged, sources)
    rows = torch.cat((stays, gifts / new_sizes.unsqueeze(-1)), dim=1).to(sources.dtype)
    mixed = torch.bmm(rows, sources)  # (N, P - merged + P, D)
    staying, parts = mixed[:, : pairs - merged], mixed[:, pairs - merged :]
    targets = targets * (target_sizes / new_sizes).unsqueeze(-1).to(targets.dtype) + parts
    staying_sizes = (stays * source_sizes.unsqueeze(1)).sum(dim=-1)

    rest = 1 + 2 * pairs
    return (
        torch.cat((hidden_states[:, :1], staying, targets, hidden_states[:, rest:]), dim=1),
        torch.cat((sizes[:, :1], staying_sizes, new_sizes, sizes[:, rest:]), dim=1),
    )


def _pairs(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the second of each pair of tokens behind the class token, (N, P, ...) each."""
    pairs = (tokens.shape[1] - 1) // 2
    first, second = tokens[:, 1 : 1 + 2 * pairs].unflatten(1, (pairs, 2)).unbind(dim=2)
    return first, second


def _rank(values: torch.Tensor) -> torch.Tensor:
    """How many of an image's values are greater than each, or equal and before it: (N, P) to whole numbers (N, P)."""
    index = torch.arange(values.shape[-1], device=values.device)
    is_before = index.unsqueeze(0) < index.unsqueeze(1)
    own, other = values.unsqueeze(2), values.unsqueeze(1)
    return ((other > own) | ((other == own) & is_before)).sum(dim=-1, dtype=torch.int32)


def copy_around(module: Any, kind: type | None = None) -> Any:
    """A module of the same parts, of which one can then be replaced in it alone; of the same class, or of `kind`."""
    copy: Any = object.__new__(kind or type(module))
    copy.__dict__ = module.__dict__.copy()
    for name in ("_modules", "_parameters", "_buffers"):
        copy.__dict__[name] = module.__dict__[name].copy()
    # Exporters and `compile` leave these behind, bound to the module itself: the copy would run it, not its own parts.
    copy.__dict__.pop("forward", None)
    copy._compiled_call_impl = None
    return copy


__all__ = ["copy_around", "for_class_token", "merge_tokens"]
