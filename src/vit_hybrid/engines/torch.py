"""A classifier on PyTorch, arranged for inference.

Weight standardization is folded, the three projections before attention are one, the last layer goes on with the class
token alone, on a GPU or in half precision the channels come last, and wide layers' weights are laid out once where
that is faster. With `compile` the rest is `torch.compile`'s: frozen weights and fused kernels on a CPU, CUDA graphs on
a GPU. It then runs batches of a few sizes only, filling up the others, since each size costs a compilation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..bundles.conversion import DTYPES
from ..errors import EngineError, argument, one_line
from ..images.preparing import Pixels
from ..images.preprocessing import Preprocessing
from ..model.geometry import as_pair
from ..model.giving import giving
from ..model.modeling import ViTHybridForImageClassification
from ..model.token_merging import for_class_token
from ..outputs.problems import labels_of, problem_type_of
from ..runtimes import AUTO, DTYPE_NAMES, LOGITS, OUTPUTS, attention_in_half, check_precision, packs_in_half
from .apart import ThreadsApart
from .devices import take_threads, usable_device
from .processor import instruction_sets
from .protocol import Array, LoadedEngine, Specification

PRECISION_OF = {getattr(torch, dtype): name for name, dtype in DTYPE_NAMES.items()}


class TorchEngine(LoadedEngine):
    """A model on PyTorch.

    Takes the model over: puts it in evaluation mode on the device and in the precision, folds its weight
    standardization and fuses its projections; `model.unfold_weight_standardization()` undoes the latter two.

    Args:
        model: The classifier.
        preprocessing: What turns a picture into its input, for the specification.
        precision: One of the row's; "auto" keeps the model's.
        threads: How many to compute with, for this whole process; by default PyTorch's own number, at most the cores
            that the process may use.
        device: Where to run; the model's own place by default.
        compile: Whether to compile at the first batch of each size, which takes a minute or more.
        dynamic: Whether pictures of other sizes are taken too, their position embeddings resized bicubically.
        attention: "eager" or "sdpa"; by default the model's own, but in half precision on a CPU, instead of
            sdpa, what `runtimes.IN_HALF_PRECISION` says.
        output: What to compute, of `runtimes.OUTPUTS`.
        channels_last: Whether maps keep their channels last; by default on a GPU and in half precision.

    Attributes:
        model: The classifier.
        channels_last: Whether maps keep their channels last.
        is_compiled: Whether it was compiled.

    Raises:
        EngineError: If the precision is not one of PyTorch's.
        ValueError: If the device cannot be used.
    """

    name = "torch"

    def __init__(
        self,
        model: ViTHybridForImageClassification,
        preprocessing: Preprocessing | None = None,
        precision: str = AUTO,
        threads: int | None = None,
        device: str | torch.device | None = None,
        compile: bool = False,
        dynamic: bool = False,
        attention: str | None = None,
        output: str = LOGITS,
        channels_last: bool | None = None,
    ) -> None:
        if precision != AUTO:
            check_precision(self.name, precision)
        take_threads(threads)
        place = model.device if device is None else usable_device(device)
        dtype = model.dtype if precision == AUTO else DTYPES[precision]
        self.model = model.to(place, dtype).fold_weight_standardization().fuse_projections()
        self.device = str(self.model.device)
        self.precision = PRECISION_OF.get(self.model.dtype, str(self.model.dtype).removeprefix("torch."))
        config = model.config
        self.spec = Specification(
            labels=labels_of(config),
            problem_type=problem_type_of(config),
            num_channels=config.num_channels,
            image_size=as_pair(config.image_size),
            dynamic=dynamic,
            preprocessing=preprocessing,
            output=output,
            feature_size=config.representation_size or config.hidden_size,
        )
        if attention is not None:
            self.model.set_attn_implementation(attention)
        elif self.model.config._attn_implementation == "sdpa" and self.model.device.type == "cpu":
            rows, columns = self.model.config.grid_size
            in_half = self.model.dtype in (torch.bfloat16, torch.float16)
            if in_half:
                self.model.set_attn_implementation(attention_in_half(rows * columns + 1, instruction_sets()))
        if self.model.device.type == "cpu" and not compile and packs_in_half(instruction_sets()):
            self.model.pack_wide_layers()
        self.channels_last = _arrange_channels_last(self.model, channels_last)
        self.is_compiled = compile
        self._compiled: Callable[..., Any] | None = _compiled(self._arranged()) if compile else None
        self._apart = ThreadsApart()

    def _checked(self, pixel_values: Pixels) -> Pixels:
        """A tensor may be on the engine's device already, and is taken as it is."""
        if isinstance(pixel_values, torch.Tensor):
            return pixel_values
        return torch.from_numpy(super()._checked(pixel_values))

    def _compute(self, values: torch.Tensor) -> Sequence[Array]:
        count = len(values)
        batch = values.to(self.model.device, self.model.dtype)
        if self._compiled is not None and bucket(count) > count:
            batch = torch.cat([batch, batch[:1].expand(bucket(count) - count, *batch.shape[1:])])
        if self.channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        extra = {"interpolate_pos_encoding": True} if self.spec.dynamic else {}
        with torch.inference_mode():
            if self._compiled is None:
                # Made anew each time, at no cost, so that what is done to `model` in between counts.
                found = self._arranged()(batch, **extra)
            else:
                found = self._run_compiled(batch, extra)
            return [found[name][:count].float().cpu().numpy() for name in OUTPUTS[self.spec.output]]

    def _compute_steadily(self, values: torch.Tensor) -> Sequence[Array]:
        if self.model.device.type != "cpu" or self._compiled is not None:
            return self._compute(values)
        return self._apart(self._compute, values)

    def _arranged(self) -> nn.Module:
        return giving(for_class_token(self.model), self.spec.output)

    def _run_compiled(self, batch: torch.Tensor, extra: dict[str, Any]) -> Mapping[str, torch.Tensor]:
        from torch._inductor import config as inductor

        assert self._compiled is not None
        try:
            with warnings.catch_warnings(), inductor.patch(freezing=batch.device.type == "cpu"):
                warnings.simplefilter("ignore")  # of the compiler, about itself
                return self._compiled(batch, **extra)
        except Exception as error:  # what compilers and their tools raise is of many kinds
            why, _, _ = one_line(error).partition(" Set TORCHDYNAMO")  # which is for those who work on PyTorch
            without = f"run it without {argument('compile', True)}."
            if "InvalidCxxCompiler" in why:
                raise EngineError(
                    f"torch.compile needs a C++ compiler such as g++, and there is none here; install one, or {without}"
                ) from error
            raise EngineError(f"torch.compile cannot compile this model here ({why[:200]}); {without}") from error


def bucket(count: int) -> int:
    """The batch size that `count` pictures are filled up to: the next power of two."""
    return 1 << (count - 1).bit_length()


def _compiled(model: Any) -> Callable[..., Any]:
    if model.device.type == "cuda":
        return torch.compile(model, mode="reduce-overhead", dynamic=False)  # CUDA graphs
    return torch.compile(model, dynamic=False)


def _arrange_channels_last(model: ViTHybridForImageClassification, wanted: bool | None) -> bool:
    """Puts the channels of convolutions' weights last where that is wanted, or nobody says and it is faster; whether it
    did."""
    if wanted is None:
        # In float32 on a CPU it hardly gains, not worth other roundings (docs/measured.md, "PyTorch's choices").
        wanted = model.device.type == "cuda" or model.dtype in (torch.bfloat16, torch.float16)
    if not wanted:
        return False
    for module in model.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        folded = getattr(module, "folded_weight", None)
        if folded is not None:
            module.folded_weight = folded.contiguous(memory_format=torch.channels_last)
        else:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return True


__all__ = ["DTYPES", "PRECISION_OF", "TorchEngine", "bucket"]
