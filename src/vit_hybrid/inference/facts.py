"""What decides the last digit of what a worker computes, and whether workers on several nodes are alike."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from ..data.streams.stores import is_address
from ..engines import LoadedEngine
from ..errors import shown
from ..runtimes import RUNTIMES

# The fact that decides the last digits, and may differ where somebody says so.
INSTRUCTION_SETS = "instruction sets"
# Of a value in messages; a checksum says nothing.
MOST_SHOWN = 24


def facts_of(engine: LoadedEngine) -> dict[str, Any]:
    """What an engine is that was loaded, for JSON."""
    return {
        "engine": engine.name,
        "precision": engine.precision,
        "device": kind_of_device(engine.device),
        "accelerator": accelerator(engine.device),
        "libraries": {name: version(name) for name in (RUNTIMES[engine.name].package, "numpy", "Pillow")},
    }


def accelerator(device: str) -> str | None:
    """What computes where it is not the processor."""
    if kind_of_device(device) != "cuda":
        return None
    import torch

    return torch.cuda.get_device_name(device)


def kind_of_device(device: str) -> str:
    """Without its number: of several alike it does not matter which."""
    return device.partition(":")[0]


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """In words, how settings or facts differ from those of before; None where they do not."""
    for name in dict.fromkeys((*now, *before)):
        was, value = before.get(name), now.get(name)
        if was == value:
            continue
        if isinstance(was, dict) and isinstance(value, dict):
            return f"other {name}: {difference(was, value)}"
        if isinstance(was, list) and isinstance(value, list):
            gone, new = (
                [str(one) for one in ours if one not in theirs] for ours, theirs in ((was, value), (value, was))
            )
            said = [
                f"{words} {', '.join(map(shown, found))}"
                for words, found in (("without", gone), ("with", new))
                if found
            ]
            return f"other {name} than before: {' and '.join(said) or 'in another order'}"
        if len(str(was)) > MOST_SHOWN or len(str(value)) > MOST_SHOWN:
            return f"other {name} than before"
        return f"{name} was {was} and is {value}"
    return None


def stand_in(place: str) -> None:
    """Goes to the folder in which the driver was started, of which names are relative, where it is there."""
    with suppress(OSError):  # where all names are addresses it need not be
        os.chdir(place)


def check_seen(sources: Sequence[str]) -> None:
    """Raises `ValueError` where this node does not see a source as it was given."""
    for name in sources:
        if not is_address(name) and not _is_there(name):
            raise ValueError(unseen(name))


def check_alike(driver: str, made: Mapping[str, Any], here: Callable[[], Mapping[str, Any]]) -> None:
    """Raises `ValueError` where a worker would work with something else than the driver does.

    Args:
        driver: The driver's machine, on which there is nothing to ask.
        made: What the driver works with.
        here: What this node finds under the same names.
    """
    if platform.node() != driver:
        how = difference(made, here())
        if how is not None:
            raise ValueError(f"the node {shown(platform.node())} would work with something else: {how}.")


def unseen(name: str) -> str:
    """What to say of a file or folder that this node does not see."""
    return (
        f"{shown(name)}: the node {shown(platform.node())} does not see this; expected a file system that all "
        "nodes share, or an address such as s3://bucket/pictures."
    )


def _is_there(name: str) -> bool:
    """Whether a file or folder is there, or the folder in which a glob begins."""
    if os.path.lexists(os.path.expanduser(name)):
        return True
    before, *rest = re.split(r"[*?[{]", name, maxsplit=1)
    return bool(rest) and os.path.isdir(os.path.dirname(before) or ".")


__all__ = [
    "INSTRUCTION_SETS",
    "accelerator",
    "check_alike",
    "check_seen",
    "difference",
    "facts_of",
    "kind_of_device",
    "stand_in",
    "unseen",
]
