"""An exponential moving average of a model's weights, for evaluation and for the model that is kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

# Early averages must not remember the random start: TensorFlow's ExponentialMovingAverage lets the decay of update t,
# counted from 0, be at most (1 + t) / (10 + t).
WARMUP_START, WARMUP_LENGTH = 1, 10

UPDATES = "updates"
PREFIX = "average."


class WeightAverage:
    """The moving average of a model's trainable weights: average = decay * average + (1 - decay) * weight.

    Starts at the weights as they are. Kept in float32 (float64 weights in theirs) beside the weights, on their device,
    also where the model is in half precision. Frozen weights are left out, as they stand still.

    Args:
        model: The model, without DDP around it; PEFT may be.
        decay: Share of the old average that stays, 0 or more and less than 1. 0.9999 is usual for long runs, 0.99 to
            0.999 for short ones.
        warmup: Whether the decay of update t, counted from 0, is at most (1 + t) / (10 + t).

    Raises:
        ValueError: If `decay` is out of range.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"The decay of the average is {decay}; give 0 or more and less than 1.")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._swapped_in = False
        self._averages = {
            name: _precise(parameter).clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }

    def decay_at(self, update: int) -> float:
        """The decay that update number `update`, counted from 0, uses."""
        if not self.warmup:
            return self.decay
        return min(self.decay, (WARMUP_START + update) / (WARMUP_LENGTH + update))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes the model's present weights into the average; to be called behind each optimizer step.

        Raises:
            RuntimeError: While the averages are swapped in.
            ValueError: If the model is not of the kind that the average was made of.
        """
        if self._swapped_in:
            raise RuntimeError("The model holds the averages now; leave `swap_in` before the next update.")
        weights = [_precise(weight) for weight in self._weights(model)]
        if weights:
            get_ema_multi_avg_fn(self.decay_at(self.updates))(list(self._averages.values()), weights, self.updates)
        self.updates += 1

    @contextmanager
    def swap_in(self, model: nn.Module) -> Iterator[None]:
        """Lets the model have the averages as its weights, inside of `with`; then its own come back, to the bit.

        Raises:
            ValueError: If the model is not of the kind that the average was made of.
        """
        weights = self._weights(model)
        kept = [weight.detach().clone() for weight in weights]
        was_swapped_in, self._swapped_in = self._swapped_in, True
        try:
            _copy(weights, list(self._averages.values()))
            yield
        finally:
            _copy(weights, kept)
            self._swapped_in = was_swapped_in

    def copy_to(self, model: nn.Module) -> None:
        """Gives the model the averages as its weights for good, as at the end of training.

        Raises:
            ValueError: If the model is not of the kind that the average was made of.
        """
        _copy(self._weights(model), list(self._averages.values()))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages by their parameters' names, and how many updates made them: tensors, for safetensors too."""
        averages = {f"{PREFIX}{name}": average.contiguous() for name, average in self._averages.items()}
        return {UPDATES: torch.tensor(self.updates), **averages}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Goes on from what `state_dict` gave.

        Raises:
            ValueError: If it is of another model; nothing is changed then.
        """
        expected = self.state_dict()
        reshaped = {name for name in expected.keys() & state_dict if state_dict[name].shape != expected[name].shape}
        for what, names in (
            ("lacks", expected.keys() - state_dict.keys()),
            ("also holds", state_dict.keys() - expected.keys()),
            ("has another shape for", reshaped),
        ):
            if names:
                raise ValueError(
                    f"The saved average is of another model: it {what} {min(names)} ({len(names)} in all). Resume with "
                    "the model, the freezing and the adapter that it was saved with."
                )
        for name, average in self._averages.items():
            average.copy_(state_dict[f"{PREFIX}{name}"])
        self.updates = int(state_dict[UPDATES])

    def _weights(self, model: nn.Module) -> list[torch.Tensor]:
        by_name = dict(model.named_parameters())
        missing = self._averages.keys() - by_name.keys()
        if missing:
            raise ValueError(
                f"The average is of another model: this one lacks {min(missing)} ({len(missing)} in all). Give the "
                "model that the average was made of, without DDP around it."
            )
        return [by_name[name] for name in self._averages]


def _precise(weight: torch.Tensor) -> torch.Tensor:
    weight = weight.detach()
    return weight.float() if weight.dtype in (torch.bfloat16, torch.float16) else weight


@torch.no_grad()
def _copy(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


__all__ = ["WeightAverage"]
