"""A way to run a model: engine, precision, and all that changes its speed. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..runtimes import AUTO, DTYPE_NAMES, ENGINES, FLOATING, INSTRUCTIONS_OF_ITS_OWN, PRECISIONS, RUNTIMES, usable_cores
from .devices import has_accelerator

EAGER, SDPA = "eager", "sdpa"
# How many pictures have to come until a compiled model, which starts in a minute or more, is worth its start; with
# more, its seconds decide.
FEW = 64


@dataclass(frozen=True)
class Way:
    """How a model runs.

    Attributes:
        engine: Of `runtimes.ENGINES`.
        precision: Of `runtimes.PRECISIONS`.
        attention: "eager" or "sdpa"; None where the engine has no choice.
        compiled: Whether `torch.compile` goes over it.
        channels_last: Whether torch keeps the channels of maps last; None where the engine has no choice.
        threads: How many compute; None for the engine's own number.
        token_merging: Tokens that each layer merges away; None for none.
    """

    engine: str
    precision: str
    attention: str | None = None
    compiled: bool = False
    channels_last: bool | None = None
    threads: int | None = None
    token_merging: int | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        words = [self.engine, self.precision, self.attention]
        return ", ".join(
            [
                " ".join(word for word in words if word),
                *(["compiled"] if self.compiled else []),
                *([f"channels {'last' if self.channels_last else 'first'}"] if self.channels_last is not None else []),
                *([f"{self.threads} thread{'s' * (self.threads > 1)}"] if self.threads is not None else []),
                *([f"merging {self.token_merging}"] if self.token_merging is not None else []),
            ]
        )

    def options(self) -> dict[str, Any]:
        """What `engines.load` takes, so that it runs this way and no other."""
        return {
            "engine": self.engine,
            "precision": self.precision,
            "attention": self.attention,
            "compile": self.compiled,
            "channels_last": self.channels_last,
            "threads": self.threads,
            "token_merging": self.token_merging,
            "tuned": False,
        }

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Way:
        """The way that these fields say, which a file may hold.

        Raises:
            KeyError, TypeError, ValueError: They are of no way that there is.
        """
        names = {one.name for one in fields(cls)}
        way = cls(**{name: values[name] for name in names})
        numbers = (way.threads, way.token_merging)
        if (
            way.precision not in RUNTIMES[way.engine].precisions
            or way.engine not in ENGINES
            or way.attention not in (None, EAGER, SDPA)
            or not isinstance(way.compiled, bool)
            or way.channels_last not in (None, True, False)
            or any(one is not None and (type(one) is not int or one < 1) for one in numbers)
        ):
            raise ValueError(f"{way} is no way to run a model")
        return way


@dataclass(frozen=True)
class Wanted:
    """What was asked for by hand of a way; None for what may be chosen.

    Attributes:
        engine, precision, attention, compiled, channels_last, threads: As of a `Way`.
        pictures: How many are to come, where that is known.
    """

    engine: str | None = None
    precision: str | None = None
    attention: str | None = None
    compiled: bool | None = None
    channels_last: bool | None = None
    threads: int | None = None
    pictures: int | None = None

    def allows(self, way: Way) -> bool:
        """Whether a way is what was asked for. The number of threads is taken as asked for, whatever was raced."""
        if way.compiled and self.compiled is None and self.pictures is not None and self.pictures < FEW:
            return False
        asked = ("engine", "precision", "attention", "compiled", "channels_last")
        return all(getattr(self, name) in (None, getattr(way, name)) for name in asked)


def named(precision: str, dtype: object) -> str | None:
    """The precision that `engines.load` computes in with these arguments; None for the weights' own."""
    if dtype is None:
        return "f32" if precision == AUTO else precision
    names = {name: short for short, name in DTYPE_NAMES.items()}
    return names.get(str(dtype).removeprefix("torch."))


def precisions_here(instruction_sets: list[str], on_cpu: bool = True) -> tuple[str, ...]:
    """The precisions that something runs in here by instructions of its own, the widest first.

    Args:
        instruction_sets: See `processor.instruction_sets`.
        on_cpu: Whether it is the processor that runs it.
    """
    if not on_cpu:
        return FLOATING
    needs = INSTRUCTIONS_OF_ITS_OWN
    return tuple(one for one in PRECISIONS if one not in needs or needs[one] & set(instruction_sets))


def plain(precision: str, on_cpu: bool = True) -> Iterator[Way]:
    """The ways that a race begins with: each engine that is here, torch with each attention."""
    for name in ENGINES:
        row = RUNTIMES[name]
        if precision not in row.precisions or not row.is_installed() or not (on_cpu or row.runs_models):
            continue
        if precision == "int8" and row.quantizer is not None and not _is_here(row.quantizer):
            continue
        if row.runs_models:
            last = not on_cpu or precision != "f32"
            yield from (Way(name, precision, attention, channels_last=last) for attention in (EAGER, SDPA))
        elif all(map(_is_here, row.converter_packages)):
            yield Way(name, precision)


def laid_out(way: Way, can_compile: bool) -> Iterator[Way]:
    """What else torch may do with the model that a way is of."""
    if way.channels_last is not None:
        yield replace(way, channels_last=not way.channels_last)
        if can_compile:
            yield replace(way, compiled=True)


def threaded(way: Way) -> Iterator[Way]:
    """The way with other numbers of threads: all cores, which may be two of what is one, and half of them."""
    cores = usable_cores()
    yield from (replace(way, threads=number) for number in dict.fromkeys((cores, max(1, cores // 2))))


def chosen(engine: str, precision: str, device: Any, torch_only: Mapping[str, Any] | None = None) -> str:
    """The engine that "auto" stands for, with these arguments of `load`.

    Args:
        engine: Another one stands for itself.
        precision: As `load` takes it.
        device: As `load` takes it.
        torch_only: Arguments that only the torch engine takes.
    """
    if engine != AUTO:
        return engine
    if any((torch_only or {}).values()) or (device is not None and str(device) != "cpu"):
        return "torch"
    if not RUNTIMES["openvino"].is_installed():
        return "onnx" if precision == "int8" and RUNTIMES["onnx"].is_installed() else "torch"
    if precision == "f16" or (device is None and has_accelerator()):
        return "torch"
    return "openvino"


def _is_here(package: str) -> bool:
    from importlib import util

    return util.find_spec(package) is not None


__all__ = [
    "EAGER",
    "FEW",
    "SDPA",
    "Wanted",
    "Way",
    "chosen",
    "laid_out",
    "named",
    "plain",
    "precisions_here",
    "threaded",
]
