"""Devices, dtypes and threads that can be used here, and what the system says of its processor."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_engine import SIDE, Colors

from vit_hybrid.engines import devices, processor
from vit_hybrid.engines.devices import device_name, has_accelerator, take_threads, usable_device, usable_dtype


@pytest.mark.parametrize(
    ("threads", "cores", "before", "taken"),
    [
        (None, None, 8, []),
        (None, 2, 8, [2]),
        (None, 4, 4, []),
        (None, 4, 2, []),  # PyTorch's own number, which is no more than there are cores for
        (3, 2, 8, [3]),
        (3, None, 2, [3]),
    ],
)
def test_threads_are_those_asked_for_or_no_more_than_there_are_cores_for(
    threads: int | None, cores: int | None, before: int, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    monkeypatch.setattr(devices, "fewer_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: before)
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    take_threads(threads)
    assert found == taken


@pytest.mark.parametrize(
    ("version", "system", "is_there", "answer", "expected"),
    [
        ("2.9.0+cpu", "linux", True, True, False),
        ("2.9.0", "linux", False, True, False),
        ("2.9.0", "linux", True, True, True),
        ("2.9.0", "darwin", False, True, True),
        ("2.9.0+cu130", "linux", True, False, False),
        (None, "linux", True, True, False),
    ],
)
def test_torch_is_asked_for_an_accelerator_where_there_may_be_one(
    version: str | None,
    system: str,
    is_there: bool,
    answer: bool,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(devices.metadata, "version", installed)
    monkeypatch.setattr(devices.sys, "platform", system)
    monkeypatch.setattr(devices, "ACCELERATOR_FILES", (str(tmp_path / "none"), str(tmp_path / "driver")))
    if is_there:
        (tmp_path / "driver").touch()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: answer)
    assert has_accelerator() is expected


def test_places_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_device("cpu") == torch.device("cpu")
    for found, place in ((torch.device("cuda:1"), "cuda:1"), (None, "cpu")):
        monkeypatch.setattr(
            torch.accelerator, "current_accelerator", lambda check_available, found=found: check_available and found
        )
        assert usable_device(None) == torch.device(place)
    assert device_name("cpu") == device_name(torch.device("cpu")) == "cpu"
    monkeypatch.setattr(devices, "has_accelerator", lambda: False)
    assert device_name(None) == "cpu"
    monkeypatch.setattr(devices, "has_accelerator", lambda: True)
    monkeypatch.setattr(devices, "usable_device", lambda device: torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: f"number {place.index}")
    assert device_name(None) == device_name("cuda") == "number 1"
    monkeypatch.setattr(devices, "usable_device", lambda device: torch.device("mps"))
    assert device_name("mps") == "mps"


def test_a_device_that_is_not_there_is_named_with_what_will_do() -> None:
    with pytest.raises(ValueError, match=r"^Device 'nowhere' cannot be used here: [^.]*\. Try 'cpu'\.$"):
        usable_device("nowhere")
    assert devices._first_sentence(RuntimeError("No driver. Install\none of them.")) == "No driver."
    assert devices._first_sentence(RuntimeError("No driver of 2.5")) == "No driver of 2.5."


def test_dtypes_that_models_compute_in() -> None:
    assert usable_dtype("auto") == "auto"
    for name in ("float32", "bfloat16", "float16", "float64"):
        assert usable_dtype(name) is usable_dtype(getattr(torch, name)) is getattr(torch, name)
    for other in ("int8", "float8_e4m3fn", "nn", torch.int64, torch.float8_e5m2):
        with pytest.raises(ValueError, match="expected 'float32', 'bfloat16', 'float16', 'float64' or 'auto'"):
            usable_dtype(other)


INTEL = "processor\t: 0\nmodel name\t: Xeon(R)  \nflags\t\t: fpu avx2 amx_bf16 avx512f avx512x\nmodel name\t: other\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [(INTEL, ["avx2", "avx512f", "amx_bf16"]), ("Features\t: fp asimd i8mm\n", ["asimd", "i8mm"]), ("", [])],
)
def test_what_a_processor_can_do_as_linux_says_it(text: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor.abilities(text) == found
    monkeypatch.setattr(processor, "read_text", lambda path: text)
    monkeypatch.setattr(processor.platform, "machine", lambda: "riscv64")
    assert processor.instruction_sets() == ["riscv64", *found]


def test_fields_of_what_the_system_says(tmp_path: Path) -> None:
    assert processor.cpu_field(INTEL, "model name") == "Xeon(R)"
    assert processor.cpu_field('NAME="Debian"\nPRETTY_NAME="Debian 12"\n', "PRETTY_NAME") == "Debian 12"
    assert processor.cpu_field(INTEL, "name") is processor.cpu_field("", "flags") is None
    (tmp_path / "file").write_bytes(b"caf\xe9")
    assert processor.read_text(tmp_path / "file") == "caf\ufffd"
    assert processor.read_text(tmp_path / "none") == processor.read_text(tmp_path) == ""


class TestChecked:
    def check(self, values: Any, dynamic: bool = False) -> Any:
        from vit_hybrid.engines.protocol import Specification, checked

        return checked(values, Specification(("a", "b"), "single_label_classification", 3, (4, 6), dynamic))

    def test_what_is_taken_is_contiguous_float32(self) -> None:
        values = torch.rand(2, 3, 6, 4, dtype=torch.float64).numpy().swapaxes(2, 3)
        found = self.check(values)
        assert (found.dtype.name, found.shape, found.flags.c_contiguous) == ("float32", (2, 3, 4, 6), True)
        assert (found == values.astype("float32")).all()
        assert self.check(torch.rand(1, 3, 8, 8).numpy(), dynamic=True).shape == (1, 3, 8, 8)

    @pytest.mark.parametrize("dynamic", [False, True])
    @pytest.mark.parametrize(
        ("values", "said"),
        [
            (torch.rand(1, 3, 4, 6), "pixel_values is a Tensor; expected a NumPy array"),
            (torch.rand(3, 4, 6).numpy(), r"has shape \(3, 4, 6\); expected \(N, 3, "),
            (torch.rand(1, 1, 4, 6).numpy(), r"has shape \(1, 1, 4, 6\); expected \(N, 3, "),
            (torch.zeros(1, 3, 4, 6, dtype=torch.uint8).numpy(), "has dtype uint8; expected floating-point numbers"),
            (torch.rand(3, 3, 4, 6).index_fill(0, torch.tensor(1), float("nan")).numpy(), "in picture 2 of 3"),
            (torch.rand(2, 3, 4, 6).index_fill(0, torch.tensor(0), float("inf")).numpy(), "in picture 1 of 2"),
        ],
    )
    def test_what_is_not_is_said(self, values: Any, said: str, dynamic: bool) -> None:
        from vit_hybrid.engines import EngineError

        with pytest.raises(EngineError, match=said) as caught:
            self.check(values, dynamic)
        if "has shape" in said:
            assert f"(N, 3, {'height, width' if dynamic else '4, 6'})." in str(caught.value)

    def test_of_no_pictures_there_are_no_rows_and_no_token(self) -> None:
        nothing = np.zeros((0, 3, SIDE, SIDE), np.float32)
        for output, rows in (("logits", 3), ("both", 3), ("all", 3), ("features", None)):
            found = Colors(output=output).run(nothing)
            assert (None if found.logits is None else found.logits.shape) == (rows and (0, rows))
            # Nobody said how many numbers they have.
            assert (None if found.features is None else found.features.shape) == (
                None if output == "logits" else (0, 0)
            )
            assert found.token is None

    def test_another_size_is_for_dynamic_ones(self) -> None:
        from vit_hybrid.engines import EngineError

        with pytest.raises(EngineError, match=r"expected \(N, 3, 4, 6\)\. Resize the pictures, or export"):
            self.check(torch.rand(1, 3, 6, 4).numpy())
