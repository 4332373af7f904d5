"""Muon for the matrices and kernels inside a network, AdamW for the rest, as one optimizer.

Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). `torch.optim.Muon` takes
matrices alone; here convolution kernels are matrices of (out, in * height * width), and a single object holds both
methods, so that schedulers, checkpoints and resuming see one optimizer.

The work grows with the third power of the widths, so larger models want a GPU for it (docs/measured.md, "Training").
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.adamw import adamw

# Jordan et al.'s quintic: it brings singular values to about 1 (0.7 to 1.2) in few steps rather than exactly there.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
NORM_EPS = 1e-7

# Matrices of one shape are orthogonalized together, up to so many numbers at a time, so that memory stays small.
LARGEST_BATCH = 1 << 24


def newton_schulz(matrices: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The nearly orthogonal matrices next to the given ones: of U S V^T, about U V^T.

    Args:
        matrices: (..., rows, columns).
        dtype: What to compute in; bfloat16 is enough.

    Returns:
        As the input in shape, with singular values around 1, in `dtype`.
    """
    a, b, c = NEWTON_SCHULZ
    rows, columns = matrices.shape[-2:]
    x = matrices.mT if rows > columns else matrices
    # Scaled before it is rounded: the norm of small gradients is nothing that half precision should sum up.
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + NORM_EPS)).to(dtype).reshape(-1, *x.shape[-2:])
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if rows > columns else x).reshape(matrices.shape)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies matrices faster in it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
        return torch.bfloat16 if has_bfloat16() else torch.float32
    return torch.float32


class Muon(torch.optim.Optimizer):
    """Muon and AdamW, each for its groups.

    A group says by "use_muon" which of the two it gets. Muon: Nesterov momentum, made orthogonal, times
    sqrt(max(1, rows / columns)). Both decay weights apart from the gradient, by learning rate times `weight_decay`.
    Momentum and moments are kept in float32 also of bfloat16 parameters. Steps on the CPU are deterministic.

    Args:
        params: Groups with "params" and "use_muon", as `muon_groups` makes them.
        lr: Rate of groups that give none.
        momentum: Muon's.
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: Of groups that give none.
        newton_schulz_dtype: What Muon orthogonalizes in: "auto" (see `fast_dtype`), "bfloat16" or "float32".

    Raises:
        ValueError: If a group does not say which method it gets, or Muon is given a vector.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        newton_schulz_dtype: str = "auto",
    ) -> None:
        if newton_schulz_dtype not in ("auto", "bfloat16", "float32"):
            raise ValueError(f"newton_schulz_dtype is {newton_schulz_dtype!r}; give auto, bfloat16 or float32.")
        if not 0 <= momentum < 1:
            raise ValueError(f"The momentum is {momentum}; give 0 or more and less than 1.")
        self.newton_schulz_dtype = newton_schulz_dtype
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "use_muon" not in param_group:
            raise ValueError('A group has no "use_muon"; make groups by `muon_groups`, or say true or false.')
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"] if param_group["use_muon"] else ():
            if parameter.ndim < 2:
                self.param_groups.pop()
                raise ValueError(
                    f"Muon is for matrices and kernels, and a parameter has the shape {tuple(parameter.shape)}; put "
                    'it into a group whose "use_muon" is false.'
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step along the gradients that the parameters hold; those without one stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters and group["use_muon"]:
                self._muon(group, parameters)
            elif parameters:
                self._adamw(group, parameters)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in `torch.optim.Optimizer`, and state stays in float32 also of parameters that are not."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for key, value in state_dict["state"].get(number, {}).items():
                self.state[parameter][key] = value.detach().to(parameter.device, copy=True)

    def _muon(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        gradients = [_precise(parameter.grad) for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(gradient)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's look ahead
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        for parameter, update in zip(parameters, self._orthogonal(updates), strict=True):
            scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
            parameter.add_(_like(update.view(parameter.shape), parameter), alpha=-group["lr"] * scale)

    def _orthogonal(self, updates: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """The updates as nearly orthogonal matrices (out, the rest), those of one shape computed together."""
        # A sharded matrix has to be whole for it: each process orthogonalizes all of it.
        matrices = [(update.full_tensor() if isinstance(update, DTensor) else update).flatten(1) for update in updates]
        alike: dict[tuple[torch.device, torch.Size], list[int]] = {}
        for index, matrix in enumerate(matrices):
            alike.setdefault((matrix.device, matrix.shape), []).append(index)
        for (device, shape), indices in alike.items():
            dtype = (
                fast_dtype(device) if self.newton_schulz_dtype == "auto" else getattr(torch, self.newton_schulz_dtype)
            )
            at_once = max(1, LARGEST_BATCH // shape.numel())
            for start in range(0, len(indices), at_once):
                some = indices[start : start + at_once]
                for index, result in zip(
                    some, newton_schulz(torch.stack([matrices[i] for i in some]), dtype), strict=True
                ):
                    matrices[index] = result
        return matrices

    def _adamw(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        precise = [_precise(parameter) for parameter in parameters]
        for parameter, value in zip(parameters, precise, strict=True):
            if "step" not in self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                self.state[parameter]["exp_avg"] = torch.zeros_like(value)
                self.state[parameter]["exp_avg_sq"] = torch.zeros_like(value)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            precise,
            [_precise(parameter.grad) for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        for parameter, value in zip(parameters, precise, strict=True):
            if value is not parameter:
                parameter.copy_(value)


def _precise(tensor: Any) -> Any:
    """In float32 where it is in half precision; else itself."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _like(update: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole update in the dtype and the sharding of its parameter."""
    update = update.to(parameter.dtype)
    if not isinstance(parameter, DTensor):
        return update
    return distribute_tensor(update, parameter.device_mesh, parameter.placements, src_data_rank=None)


__all__ = ["Muon", "fast_dtype", "newton_schulz"]
