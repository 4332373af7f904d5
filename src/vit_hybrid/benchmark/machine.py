"""The hardware and the libraries that a result is of: nothing that says whose machine it is."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..engines.processor import CPU_INFO, abilities, cpu_field, cpu_name, read_text
from ..runtimes import RUNTIMES, usable_cores

OS_RELEASE = Path("/etc/os-release")
ENGINE_LIBRARIES = dict.fromkeys(
    library for row in RUNTIMES.values() for library in (*row.distributions, row.quantizer) if library is not None
)
LIBRARIES = tuple(dict.fromkeys(("torch", "transformers", *ENGINE_LIBRARIES, "numpy", "Pillow")))


def describe() -> dict[str, Any]:
    """CPU, memory, operating system, and the versions of this environment's libraries."""
    text = read_text(CPU_INFO)
    return {
        "cpu": cpu_name(text) or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "abilities": abilities(text),
        "memory_bytes": _memory(),
        "os": _operating_system(),
        "libraries": {"python": platform.python_version(), **installed(LIBRARIES)},
    }


def installed(libraries: Iterable[str]) -> dict[str, str]:
    """The versions of the libraries that are installed here."""
    found = {}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _operating_system() -> str:
    name = cpu_field(read_text(OS_RELEASE), "PRETTY_NAME")
    kernel = f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"  # the rest may name who built it
    return f"{name}, {kernel}" if name else kernel


__all__ = ["describe", "installed"]
