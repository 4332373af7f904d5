"""What to measure, checked before anything is started."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..assets import BUILT_IN_MODEL
from ..runtimes import ENGINES, PRECISIONS, usable_cores
from .contenders import ATTENTIONS, Contender, Peer, installed_engines, line_up
from .models import base_name, read_if_bundle

if TYPE_CHECKING:
    from ..bundles.manifest import Bundle

# The batch sizes and attentions of the table in Hugging Face's documentation of ViT Hybrid.
BATCH_SIZES = (1, 2, 4, 8)
REPETITIONS = 9
WARM_UP = 2


@dataclass(frozen=True)
class Settings:
    """What `run` is to measure.

    Args:
        model: What `checkpoints.opening` opens, a bundle that `vit-hybrid export` wrote, whose engine and precision
            are settled, or a published hybrid by any of its names (random weights then).
        batch_sizes: Pictures that go through the model at once.
        image_sizes: (height, width) in pixels; None for the model's own.
        engines: Of `ENGINES`; those whose libraries are here, by default.
        attentions: Of `ATTENTIONS`, for engines that have a choice.
        precisions: Of `PRECISIONS`.
        compiled: Whether to add torch's engine with `torch.compile`.
        token_merging: Numbers of tokens that each layer is to merge away, a contender more for each.
        peers: Libraries to measure against.
        device: Where torch runs; the accelerator if there is one, by default.
        threads: Threads of each contender; a thread for each core that can be used, by default.
        repetitions: Timed rounds.
        warm_up: Rounds before them.
        busy: Processes that keep a core busy each meanwhile.

    Raises:
        ValueError: If there is nothing to measure or something that does not exist; the message is one line.
    """

    model: str = BUILT_IN_MODEL
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    image_sizes: tuple[tuple[int, int] | None, ...] = (None,)
    engines: tuple[str, ...] = ()
    attentions: tuple[str, ...] = ATTENTIONS
    precisions: tuple[str, ...] = ("f32",)
    compiled: bool = False
    token_merging: tuple[int, ...] = ()
    peers: tuple[Peer, ...] = ()
    device: str | None = None
    threads: int = 0
    repetitions: int = REPETITIONS
    warm_up: int = WARM_UP
    busy: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "engines", self.engines or installed_engines())
        object.__setattr__(self, "threads", self.threads or usable_cores())
        _check("engines", self.engines, ENGINES)
        _check("attention", self.attentions, ATTENTIONS)
        _check("precision", self.precisions, PRECISIONS)
        for name, values in (("batch sizes", self.batch_sizes), ("token merging", self.token_merging)):
            if any(value < 1 for value in values):
                raise ValueError(f"{name}: expected numbers from 1 on, found {_listed(values)}")
        if not self.batch_sizes or not self.image_sizes:
            raise ValueError("there is no batch size or no image size to measure")
        if self.busy < 0:
            raise ValueError(f"busy: expected 0 or more processes, found {self.busy}")
        if self.repetitions < 1 or self.warm_up < 0 or self.threads < 1:
            raise ValueError(
                "expected 1 or more repetitions and threads and 0 or more rounds of warm-up, found "
                f"{self.repetitions}, {self.threads} and {self.warm_up}"
            )
        if self.compiled and "torch" not in self.engines:
            raise ValueError(f"compile is for the engine torch, and the engines are {_listed(self.engines)}")

        if self.bundle is None:
            return
        if self.bundle.engine not in ENGINES:
            raise ValueError(f"{self.model}: this bundle is for {self.bundle.engine}, which runs elsewhere")
        if self.peers or self.image_sizes != (None,):
            raise ValueError(
                f"{self.model}: a bundle is for one engine and one image size; for others and for peers, give the "
                "model that it was exported from"
            )

    @cached_property
    def bundle(self) -> Bundle | None:
        """What the model says of itself, where it was exported."""
        return read_if_bundle(self.model)

    def contenders(self) -> list[Contender]:
        """All that take turns, in their order; of a bundle, its own engine alone."""
        if self.bundle is not None:
            return [
                Contender(self.bundle.engine, self.bundle.precision, token_merging=self.bundle.token_merging),
            ]
        return line_up(self.engines, self.precisions, self.attentions, self.compiled, self.token_merging, self.peers)

    def command(self) -> str:
        """The command that measures the same, without what is where on this machine."""
        sizes = [
            f"{height}x{width}" if height != width else str(height) for height, width in filter(None, self.image_sizes)
        ]
        words = ["vit-hybrid", "benchmark", base_name(self.model)]
        words += ["--image-sizes", ",".join(sizes)] if sizes else []
        words += ["--batch-sizes", ",".join(map(str, self.batch_sizes))]
        if self.bundle is None:
            words += ["--engines", ",".join(self.engines), "--attention", ",".join(self.attentions)]
            words += ["--precision", ",".join(self.precisions)]
            words += ["--compile"] if self.compiled else []
            words += ["--token-merging", ",".join(map(str, self.token_merging))] if self.token_merging else []
        for peer in self.peers:
            words += ["--peers", f"{peer.kind}=PYTHON"]
        words += ["--device", self.device] if self.device else []
        words += ["--threads", str(self.threads), "--repetitions", str(self.repetitions)]
        words += ["--warm-up", str(self.warm_up)]
        words += ["--busy", str(self.busy)] if self.busy else []
        return shlex.join(words)

    def described(self) -> dict[str, Any]:
        """The fields for a report that are not said elsewhere in it."""
        return {
            "batch_sizes": list(self.batch_sizes),
            "threads": self.threads,
            "device": self.device,
            "repetitions": self.repetitions,
            "warm_up": self.warm_up,
            "busy": self.busy,
        }


def _check(name: str, values: Iterable[str], known: Iterable[str]) -> None:
    values, known = list(values), list(known)
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise ValueError(f"{name}: expected some of {', '.join(known)}; found {_listed(unknown) or 'none'}")


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


__all__ = ["BATCH_SIZES", "REPETITIONS", "WARM_UP", "Settings"]
