"""What is said of the machine: what decides speed, and nothing of whose it is."""

from __future__ import annotations

from typing import Any

import pytest

from vit_hybrid.benchmark import machine


@pytest.mark.parametrize(
    ("text", "named", "cpu"),
    [
        ("model name\t: EPYC 9\nProcessor\t: other\nflags\t\t: avx2\n", "", "EPYC 9"),
        ("Processor\t: ARMv8\n", "arm", "ARMv8"),
        ("", "arm", "arm"),
        ("", "", "riscv64"),
    ],
)
def test_the_processor_is_what_the_system_calls_it(
    text: str, named: str, cpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "read_text", lambda path: text if path == machine.CPU_INFO else "")
    for name, said in (("processor", named), ("machine", "riscv64"), ("system", "Linux"), ("release", "6.1.0-of-us")):
        monkeypatch.setattr(machine.platform, name, lambda said=said: said)
    monkeypatch.setattr(machine.platform, "python_version", lambda: "3.12.1")
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(machine.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)
    found = machine.describe()
    libraries = found.pop("libraries")
    assert found == {
        **{"cpu": cpu, "architecture": "riscv64", "cores": 8, "usable_cores": 2, "memory_bytes": 4_096_000},
        **{"abilities": ["avx2"] if "avx2" in text else [], "os": "Linux 6.1"},
    }
    assert libraries["python"] == "3.12.1"
    assert [*libraries][1:3] == ["torch", "transformers"]


def test_the_system_is_named_with_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {machine.OS_RELEASE: 'NAME="Debian"\nPRETTY_NAME="Debian 12"\n'}
    monkeypatch.setattr(machine, "read_text", texts.__getitem__)
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(machine.platform, "release", lambda: "6.1.0-built-by-somebody")
    assert machine._operating_system() == "Debian 12, Linux 6.1"


def test_memory_is_unknown_where_nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> Any:
        raise ValueError(name)

    monkeypatch.setattr(machine.os, "sysconf", unknown)
    assert machine._memory() is None


def test_libraries_that_are_not_here_have_no_version() -> None:
    assert list(machine.installed(["numpy", "no-such-library", "Pillow"])) == ["numpy", "Pillow"]
