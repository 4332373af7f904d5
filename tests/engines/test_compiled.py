"""Compiled programs that are kept: when one is taken up again, and when not."""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_hybrid

from vit_hybrid import engines
from vit_hybrid.engines import compiled
from vit_hybrid.engines.compiled import FOLDER, KeptPrograms
from vit_hybrid.export import export

openvino = pytest.importorskip("openvino")
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
PIXELS = np.random.default_rng(0).normal(0, 1, (3, 4, 5, 5)).astype(np.float32)


class Core:
    """OpenVINO's, and what it was asked to do."""

    def __init__(self) -> None:
        self.core = openvino.Core()
        self.done: list[str] = []

    def compile_model(self, *args: Any) -> Any:
        self.done.append("compiled")
        return self.core.compile_model(*args)

    def import_model(self, *args: Any) -> Any:
        self.done.append("taken up")
        return self.core.import_model(*args)


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where compiled programs are kept."""
    monkeypatch.setenv("VIT_HYBRID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / FOLDER


def convolution(seed: int) -> Any:
    ops = openvino.opset13
    weights = np.random.default_rng(seed).normal(0, 1, (64, 4, 3, 3)).astype(np.float32)
    pixels = ops.parameter([-1, 4, 5, 5], np.float32)
    return openvino.Model([ops.convolution(pixels, weights, [1, 1], [0, 0], [0, 0], [1, 1])], [pixels], "convolution")


def saved(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    openvino.save_model(convolution(seed), folder / "program.xml", compress_to_fp16=False)
    return folder / "program.xml"


def sums(program: Path) -> dict[str, str]:
    files = (program, program.with_suffix(".bin"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def start(core: Core, program: Path, count: int | None = 3, **settings: Any) -> np.ndarray:
    """What a start from the program on disk computes."""
    programs = KeptPrograms(core, program, sums(program), {**SETTINGS, **settings})
    return run(programs, core, program, count)


def run(programs: KeptPrograms, core: Core, program: Path, count: int | None = 3) -> np.ndarray:
    model = core.core.read_model(program)
    if count is not None:
        model.reshape({0: [count, 4, 5, 5]})
    return np.array(programs.compiled(model, count)([PIXELS[: count or 3]])[0])


@pytest.mark.parametrize("count", [3, 1, None])
def test_the_second_start_takes_up_what_the_first_compiled(
    count: int | None, core: Core, kept: Path, tmp_path: Path
) -> None:
    program = saved(tmp_path / "it")
    first, second = (start(core, program, count) for _ in range(2))
    assert core.done == ["compiled", "taken up"]
    np.testing.assert_array_equal(first, second)
    assert len([*kept.iterdir()]) == 1
    shutil.copytree(program.parent, tmp_path / "copied")
    np.testing.assert_array_equal(start(core, tmp_path / "copied" / program.name, count), first)
    assert core.done == ["compiled", "taken up", "taken up"]


def test_weights_are_not_kept_again(core: Core, kept: Path, tmp_path: Path) -> None:
    ops = openvino.opset13
    values = ops.parameter([-1, 1024], np.float32)
    weights = np.random.default_rng(0).normal(0, 1, (1024, 1024)).astype(np.float32)
    folder = tmp_path / "wide"
    folder.mkdir()
    model = openvino.Model([ops.matmul(values, weights, False, False)], [values], "product")
    openvino.save_model(model, folder / "program.xml", compress_to_fp16=False)
    program = folder / "program.xml"
    KeptPrograms(core, program, sums(program), SETTINGS).compiled(core.core.read_model(program), None)
    [file] = kept.iterdir()
    assert file.stat().st_size < 100_000 < weights.nbytes


def test_whatever_changes_what_is_compiled_has_a_file_of_its_own(
    core: Core, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, other = saved(tmp_path / "it"), saved(tmp_path / "other", seed=1)
    start(core, program)
    start(core, program, None)
    start(core, program, 2)
    start(core, program, INFERENCE_NUM_THREADS=2)
    differs = start(core, other)
    monkeypatch.setattr(compiled, "installed_version", lambda package: f"another {package}")
    start(core, program)
    monkeypatch.setattr(compiled, "processor", lambda: {"processor": "another"})
    start(core, program)
    assert core.done == ["compiled"] * 7
    assert len([*kept.iterdir()]) == 7
    np.testing.assert_array_equal(differs, core.core.compile_model(convolution(1), "CPU", SETTINGS)([PIXELS])[0])
    assert np.abs(differs - start(core, program)).max() > 1


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "not a program", "unreadable"])
def test_a_file_that_is_damaged_is_replaced(damage: str, core: Core, kept: Path, tmp_path: Path) -> None:
    program = saved(tmp_path / "it")
    expected = start(core, program)
    [file] = kept.iterdir()
    content = file.read_bytes()
    if damage == "unreadable":
        file.unlink()
        file.mkdir()
    else:
        blob = content[:-1] + bytes([content[-1] ^ 1])
        text = b"of another build"
        file.write_bytes(
            {
                "cut": content[: len(content) // 2],
                "changed": blob,
                "empty": b"",
                "not a program": hashlib.sha256(text).digest() + text,
            }[damage]
        )
    np.testing.assert_array_equal(start(core, program), expected)
    assert core.done[-1] == "compiled"
    if damage == "unreadable":
        assert [*kept.iterdir()] == [file]
    else:
        assert [*kept.iterdir()] == [file]
        start(core, program)
        assert core.done[-1] == "taken up"


def test_weights_that_took_the_place_of_others_are_not_those_of_what_is_kept(
    core: Core, kept: Path, tmp_path: Path
) -> None:
    program, other = saved(tmp_path / "it"), saved(tmp_path / "other", seed=1)
    expected = start(core, program)
    model = core.core.read_model(program)
    model.reshape({0: [3, 4, 5, 5]})
    programs = KeptPrograms(core, program, sums(program), SETTINGS)
    replaced = tmp_path / "it" / "unfinished.bin"
    shutil.copy(other.with_suffix(".bin"), replaced)
    replaced.replace(program.with_suffix(".bin"))
    np.testing.assert_array_equal(programs.compiled(model, 3)([PIXELS])[0], expected)
    assert core.done == ["compiled", "compiled"]
    os.unlink(program.with_suffix(".bin"))
    np.testing.assert_array_equal(programs.compiled(model, 3)([PIXELS])[0], expected)
    assert len([*kept.iterdir()]) == 1


@pytest.mark.parametrize("unnamed", ["program.xml", "program.bin"])
def test_of_what_has_no_checksum_nothing_is_kept(unnamed: str, core: Core, kept: Path, tmp_path: Path) -> None:
    program = saved(tmp_path / "it")
    named = {name: digest for name, digest in sums(program).items() if name != unnamed}
    assert len(named) == 1
    found = [run(KeptPrograms(core, program, named, SETTINGS), core, program) for _ in range(2)]
    assert core.done == ["compiled"] * 2
    np.testing.assert_array_equal(*found)
    assert not kept.exists()


@pytest.mark.parametrize("place", ["a file", "no home"])
def test_without_a_place_programs_are_compiled_without_a_word(
    place: str, core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIT_HYBRID_CACHE", str(tmp_path / "file") if place == "a file" else "~nobody-of-this-name/it")
    program = saved(tmp_path / "it")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (start(core, program) for _ in range(2))
    assert core.done == ["compiled"] * 2
    np.testing.assert_array_equal(first, second)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "it"]


def test_what_openvino_does_not_give_out_is_not_kept_and_runs_all_the_same(
    core: Core, kept: Path, tmp_path: Path
) -> None:
    class Closed:
        def export_model(self) -> Any:
            raise RuntimeError("not of this device")

    program, closed = saved(tmp_path / "it"), Closed()
    core.compile_model = lambda *_: closed  # type: ignore[method-assign]
    for _ in range(2):
        assert KeptPrograms(core, program, sums(program), SETTINGS).compiled(None, 3) is closed
    assert not kept.exists()


def test_models_start_from_what_is_kept(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in the cache, and bundles that somebody exported; not those that nobody could write."""
    source = tiny_hybrid.save_tiny_model(tmp_path / "model")
    bundle = tmp_path / "bundle"
    export(source, bundle, engine="openvino")
    pixels = np.random.default_rng(0).normal(0, 1, (2, 3, tiny_hybrid.IMAGE_SIZE, tiny_hybrid.IMAGE_SIZE))
    pixels = pixels.astype(np.float32)

    def logits(**how: Any) -> list[np.ndarray]:
        return [
            engines.load(model, "openvino", "f32", tuned=False, batch_size=2, **how).logits(pixels)
            for model in (source, bundle)
        ]

    before = logits()
    files = sorted((tmp_path / "cache").rglob("*.blob"))
    [entry] = {
        file.parent for file in files if file.parent != kept
    }  # of the model that was converted, and goes with it
    assert entry.name == FOLDER
    assert (entry.parent / "bundle.json").is_file()
    assert kept in {file.parent for file in files}  # of the bundle
    assert not [*bundle.rglob("*.blob")]

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("it is compiled again")

    monkeypatch.setattr(openvino.Core, "compile_model", refuse)
    for one, other in zip(before, logits(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(engines.EngineError, match="it is compiled again"):
        logits(threads=3)
    assert sorted((tmp_path / "cache").rglob("*.blob")) == files
