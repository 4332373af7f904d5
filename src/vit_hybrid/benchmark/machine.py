"""The hardware and the libraries that a result is of: nothing that says whose machine it is."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..runtimes import RUNTIMES

CPU_INFO, OS_RELEASE = Path("/proc/cpuinfo"), Path("/etc/os-release")
# Those of a CPU's abilities that decide how fast it multiplies matrices, as Linux calls them.
ABILITIES = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve"),
)
ENGINE_LIBRARIES = dict.fromkeys(
    library for row in RUNTIMES.values() for library in (*row.distributions, row.quantizer) if library is not None
)
LIBRARIES = tuple(dict.fromkeys(("torch", "transformers", *ENGINE_LIBRARIES, "numpy", "Pillow")))


def describe() -> dict[str, Any]:
    """CPU, memory, operating system, and the versions of this environment's libraries."""
    text = _read(CPU_INFO)
    return {
        "cpu": _field(text, "model name") or _field(text, "Processor") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "abilities": abilities(text),
        "memory_bytes": _memory(),
        "os": _operating_system(),
        "libraries": {"python": platform.python_version(), **installed(LIBRARIES)},
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def abilities(cpu_info: str) -> list[str]:
    """Those of `ABILITIES` that Linux's list of a CPU's flags has."""
    flags = set((_field(cpu_info, "flags") or _field(cpu_info, "Features") or "").split())
    return [name for name in ABILITIES if name in flags]


def installed(libraries: Iterable[str]) -> dict[str, str]:
    """The versions of the libraries that are installed here."""
    found = {}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _field(text: str, name: str) -> str | None:
    match = re.search(rf"^{re.escape(name)}\s*[:=]\s*(.+?)\s*$", text, re.MULTILINE)
    return match[1].strip('"') if match else None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _operating_system() -> str:
    name = _field(_read(OS_RELEASE), "PRETTY_NAME")
    kernel = f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"  # the rest may name who built it
    return f"{name}, {kernel}" if name else kernel


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


__all__ = ["abilities", "describe", "installed", "usable_cores"]
