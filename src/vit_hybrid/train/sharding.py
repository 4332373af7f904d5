"""FSDP2 by hand, for loops of one's own; under Trainer, `accelerate launch --use_fsdp --fsdp_version 2` does it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from ..model.backbone import BitBottleneckLayer, BitPreActivationBottleneckLayer
from ..model.modeling import ViTHybridLayer

# What is gathered, computed and given up again as one: small enough to save memory, large enough to move at once.
BLOCKS = (BitBottleneckLayer, BitPreActivationBottleneckLayer, ViTHybridLayer)


def shard(model: nn.Module, mesh: DeviceMesh | None = None, **options: Any) -> nn.Module:
    """Shards a hybrid's weights over processes: each encoder layer and ResNet block by itself, the rest together.

    Every process calls this on the same model, whose weights have to be equal in all of them, as those of one file or
    one seed are. Make the optimizer behind it, of `parameter_groups` or `muon_groups`: its state is then sharded too.
    `torch.nn.utils.clip_grad_norm_` and `Muon` know sharded weights; `WeightAverage` does not.

    Args:
        model: A hybrid of any class, in place; PEFT may be around it.
        mesh: The processes, one-dimensional to shard over all of them, or as `fully_shard` says; by default those of
            the whole process group, on their accelerator or else the CPU.
        **options: Of `torch.distributed.fsdp.fully_shard`, such as `mp_policy`, `reshard_after_forward` or
            `offload_policy`.

    Returns:
        The model.

    Raises:
        ValueError: There is no process group, or the model has no block of a hybrid.
    """
    if mesh is None and not torch.distributed.is_initialized():
        raise ValueError(
            "There are no processes to shard over; start several with torchrun and call "
            "torch.distributed.init_process_group first."
        )
    blocks = [module for module in model.modules() if isinstance(module, BLOCKS)]
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no encoder layer and no ResNet block of a hybrid; give a hybrid.")
    for block in blocks:
        fully_shard(block, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model


def full_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """The whole weights of a sharded model, on the CPU of the first process; the others get nothing.

    Every process has to call this. What comes back loads into a plain model of the same configuration.
    """
    whole: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return whole


__all__ = ["full_state_dict", "shard"]
