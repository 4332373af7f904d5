"""The processor by what decides how fast it multiplies matrices, and to which last digit."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

CPU_INFO = Path("/proc/cpuinfo")
# Those of a CPU's abilities that decide how fast it multiplies matrices, as Linux calls them.
ABILITIES = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve"),
)


def processor() -> dict[str, Any]:
    """What the processor calls itself, and its `instruction_sets`."""
    text = read_text(CPU_INFO)
    return {"processor": cpu_name(text), "instruction_sets": _instruction_sets(text)}


def instruction_sets() -> list[str]:
    """The kind of processor, and those of `ABILITIES` that it has where the system tells."""
    return _instruction_sets(read_text(CPU_INFO))


def _instruction_sets(cpu_info: str) -> list[str]:
    return [platform.machine(), *abilities(cpu_info)]


def cpu_name(cpu_info: str) -> str:
    """What the processor calls itself in Linux's text about it, else what Python calls it, which may be nothing."""
    return cpu_field(cpu_info, "model name") or cpu_field(cpu_info, "Processor") or platform.processor()


def abilities(cpu_info: str) -> list[str]:
    """Those of `ABILITIES` that Linux's list of a CPU's flags has."""
    flags = set((cpu_field(cpu_info, "flags") or cpu_field(cpu_info, "Features") or "").split())
    return [name for name in ABILITIES if name in flags]


def cpu_field(text: str, name: str) -> str | None:
    """The first value of that name in a text of lines such as `name : value` or `NAME="value"`."""
    match = re.search(rf"^{re.escape(name)}\s*[:=]\s*(.+?)\s*$", text, re.MULTILINE)
    return match[1].strip('"') if match else None


def read_text(path: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


__all__ = ["ABILITIES", "CPU_INFO", "abilities", "cpu_field", "cpu_name", "instruction_sets", "processor", "read_text"]
