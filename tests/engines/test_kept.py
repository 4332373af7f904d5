"""What is kept of a race: for which machine and model it counts, and what becomes of files that are something else."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vit_hybrid.bundles import cache
from vit_hybrid.engines import EngineWarning, kept, processor, ways
from vit_hybrid.engines.kept import Row, Table
from vit_hybrid.engines.ways import Wanted, Way, precisions_here
from vit_hybrid.runtimes import Runtime

SHAPE = {"hidden_size": 16, "image_size": 32, "backbone_config": {"depths": [1, 1]}}
OPENVINO, ONNX = Way("openvino", "f32"), Way("onnx", "f32", threads=1)
EAGER = Way("torch", "f32", "eager", channels_last=False)
COMPILED = Way("torch", "f32", "sdpa", True, False)
HALF = Way("openvino", "bf16")
TABLE = Table(
    (
        Row(OPENVINO, 1, 0.010, 3),
        Row(ONNX, 1, 0.012, 3),
        Row(EAGER, 1, 0.020, 2),
        Row(COMPILED, 1, 0.008, 2),
        Row(OPENVINO, 16, 0.160, 3),
        Row(ONNX, 16, 0.110, 3),
        Row(HALF, 1, 0.011, 3),
    )
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / kept.FOLDER


def test_what_is_kept_is_read_again(folder: Path) -> None:
    assert not kept.is_anything_kept()
    assert kept.read(SHAPE) is None
    file = kept.keep(TABLE, SHAPE)
    assert file is not None
    assert file.parent == folder
    assert kept.is_anything_kept()
    assert kept.read(SHAPE) == TABLE
    assert [path.name for path in folder.iterdir()] == [file.name]
    of_a_gpu = Table(TABLE.rows[:1])
    assert kept.keep(of_a_gpu, SHAPE, "a GPU") not in (None, file)
    assert (kept.read(SHAPE, "a GPU"), kept.read(SHAPE)) == (of_a_gpu, TABLE)
    of_a_rectangle = {**SHAPE, "image_size": (32, 64)}  # of which JSON makes a list
    assert kept.keep(TABLE, of_a_rectangle) is not None
    assert kept.read(of_a_rectangle) == TABLE


def test_what_was_measured_is_of_the_device_that_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "device_name", lambda device: f"place {device}")
    source: Any = SimpleNamespace(kind="own", fields=lambda: SHAPE)
    kept.keep(TABLE, SHAPE, "place cuda:1")
    wanted = Wanted(precision="f32", compiled=False)
    one, whole = (kept.measured(source, wanted, "cuda:1", size) for size in (1, None))
    assert one is not None
    assert whole is not None
    assert (one.way, whole.way, whole.batch_size) == (OPENVINO, ONNX, 16)
    assert kept.measured(source, wanted, "cuda:1") == one
    assert kept.measured(source, wanted) is kept.measured(source, Wanted(), "cuda:1") is None
    source.kind = "bundle"
    assert kept.measured(source, wanted, "cuda:1") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(kept, "usable_cores", lambda: 64),
        lambda patch: patch.setattr(kept, "_here", lambda: {"processor": "another"}),
    ],
    ids=["cores", "processor"],
)
def test_it_counts_where_it_was_measured(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.keep(TABLE, SHAPE)
    assert kept.read({**SHAPE, "image_size": 64}) is None
    assert kept.read(SHAPE, "NVIDIA H200") is None
    change(monkeypatch)
    assert kept.read(SHAPE) is None


def test_names_and_labels_are_no_shape() -> None:
    fields = {**SHAPE, "id2label": {"0": "cat"}, "label2id": {"cat": 0}, "transformers_version": "5", "dtype": "x"}
    assert kept.shape_of(fields) == SHAPE
    for name in (
        *("num_labels", "problem_type", "architectures", "auto_map", "_name_or_path", "torch_dtype"),
        *("initializer_range", "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"),
        "_attn_implementation",
    ):
        assert kept.shape_of({**SHAPE, name: 7}) == SHAPE, name
    for name in ("intermediate_size", "num_hidden_layers", "hidden_act"):
        assert kept.shape_of({**SHAPE, name: 7}) == {**SHAPE, name: 7}
    for other in ({"pooling": {"dtype": "x"}}, {"backbone_config": None}):
        assert kept.shape_of({**SHAPE, **other}) == {**SHAPE, **other}
    assert kept.shape_of({**fields, "backbone_config": {"depths": [1, 1], "dtype": "y"}}) == SHAPE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "is damaged"),
        ('{"format": "vit-hybrid tuning", "format_version": 99}', "is damaged"),
        (
            '{"format": "vit-hybrid tuning", "format_version": 1, "about": {}, "rows": [], "brief": false}',
            "is of another",
        ),
    ],
)
def test_damaged_and_foreign_files_are_passed_over_with_a_word(content: str, said: str) -> None:
    file = kept.keep(TABLE, SHAPE)
    assert file is not None
    file.write_text(content)
    with pytest.warns(EngineWarning, match=f"{file.name}: what was measured {said}.*vit-hybrid tune measures anew"):
        assert kept.read(SHAPE) is None


def test_a_table_that_cannot_be_written_leaves_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kept.keep(TABLE, SHAPE)
    write = Path.write_text

    def fill_the_disk(path: Path, text: str, **how: Any) -> int:
        write(path, text[:10], **how)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fill_the_disk)
        with pytest.warns(EngineWarning, match=r"measured cannot be kept \(.*the disk is full"):
            assert kept.keep(Table(), SHAPE) is None
    assert kept.read(SHAPE) == TABLE


@pytest.mark.parametrize("change", [{"format": "another"}, {"format_version": 2}])
def test_a_table_of_another_format_is_not_read_whatever_is_in_it(change: dict[str, Any]) -> None:
    file = kept.keep(TABLE, SHAPE)
    assert file is not None
    content = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps(content))
    said = f"its format is {content['format']!r}, {content['format_version']}"
    with pytest.warns(EngineWarning, match=rf"{file.name}: what was measured is damaged \({said}\)"):
        assert kept.read(SHAPE) is None


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"batch_size": 0},
        {"way": {}},
        {"way": {**vars(OPENVINO), "engine": "tensorrt"}},
        {"way": {**vars(EAGER), "precision": "int8"}},
        {"way": {**vars(OPENVINO), "threads": 0}},
        {"way": {**vars(OPENVINO), "threads": True}},
        {"way": {**vars(OPENVINO), "token_merging": 2.0}},
        {"way": {**vars(EAGER), "attention": "flash"}},
        {"way": {**vars(OPENVINO), "compiled": "yes"}},
        {"way": {**vars(EAGER), "channels_last": "yes"}},
        {"way": {**vars(OPENVINO), "engine": "executorch"}},
    ],
)
def test_rows_of_no_way_that_there_is_are_damage(change: dict[str, Any]) -> None:
    file = kept.keep(TABLE, SHAPE)
    assert file is not None
    content = json.loads(file.read_text())
    content["rows"][0] |= change
    file.write_text(json.dumps(content))
    with pytest.warns(EngineWarning, match="is damaged"):
        assert kept.read(SHAPE) is None


def test_without_a_place_nothing_is_kept_and_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.warns(EngineWarning, match="cannot be kept"):
        assert kept.keep(TABLE, SHAPE) is None
    for name in (cache.CACHE_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless(path: Path) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.warns(EngineWarning, match="no home folder"):
        assert kept.keep(TABLE, SHAPE) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kept.read(SHAPE) is None


@pytest.mark.parametrize(
    ("wanted", "batch_size", "expected"),
    [
        (Wanted(precision="f32"), 1, COMPILED),
        (Wanted(precision="f32", pictures=64), 1, COMPILED),
        (Wanted(precision="f32", pictures=63), 1, OPENVINO),  # which do not pay for compiling
        (Wanted(precision="f32", compiled=True, pictures=1), 1, COMPILED),
        (Wanted(precision="f32", compiled=False), 1, OPENVINO),
        (Wanted(precision="f32", compiled=False), 32, ONNX),
        (Wanted(precision="f32", compiled=False), 3, OPENVINO),
        (Wanted(precision="f32", compiled=False), 4, OPENVINO),  # of two sizes that are as near the smaller
        (Wanted(precision="f32", compiled=False), 6, ONNX),
        (Wanted(precision="f32", engine="torch", compiled=False), 1, EAGER),
        (Wanted(precision="f32", engine="torch", attention="eager"), 16, EAGER),
        (Wanted(precision="f32", engine="onnx"), 1, ONNX),
        (Wanted(precision="f32", engine="onnx", threads=7), 1, Way("onnx", "f32", threads=7)),
        (Wanted(precision="bf16"), 1, HALF),
        (Wanted(precision="bf16", engine="torch"), 1, None),
        (Wanted(precision="int8"), 1, None),
    ],
)
def test_the_fastest_of_what_was_asked_for(wanted: Wanted, batch_size: int, expected: Way | None) -> None:
    found = TABLE.best(wanted, batch_size)
    assert (None if found is None else found.way) == expected


def test_the_batch_with_which_each_picture_takes_least() -> None:
    found = TABLE.best_of_all_batches(Wanted(precision="f32", compiled=False))
    assert found is not None
    assert (found.way, found.batch_size) == (ONNX, 16)
    assert TABLE.best_of_all_batches(Wanted(precision="bf16")) == TABLE.rows[-1]
    assert TABLE.best_of_all_batches(Wanted(precision="int8")) is None


def test_a_precision_that_gains_nothing_is_named() -> None:
    assert TABLE.slower_than_wider() == {"bf16": "f32"}
    faster = TABLE.with_rows([Row(HALF, 1, 0.002, 3)])
    assert faster.slower_than_wider() == {}
    assert [row for row in faster.rows if row.way.precision == "bf16"] == [Row(HALF, 1, 0.002, 3)]


def test_precisions_that_the_processor_has_instructions_for() -> None:
    assert precisions_here(["x86_64", "avx2"]) == ("f32", "int8")
    assert precisions_here(["x86_64", "avx512_bf16"]) == ("f32", "bf16", "int8")
    assert precisions_here(["x86_64", "amx_bf16", "avx512_fp16"]) == ("f32", "bf16", "f16", "int8")
    assert precisions_here([], on_cpu=False) == ("f32", "bf16", "f16")


def test_a_way_says_what_it_is_and_how_it_is_loaded() -> None:
    way = Way("torch", "bf16", "sdpa", True, True, 2, 8)
    assert way.name == "torch bf16 sdpa, compiled, channels last, 2 threads, merging 8"
    assert Way.from_fields(json.loads(json.dumps(vars(way)))) == way
    assert way.options() == {
        **{"engine": "torch", "precision": "bf16", "attention": "sdpa", "compile": True, "channels_last": True},
        **{"threads": 2, "token_merging": 8, "tuned": False},
    }
    assert Way("torch", "f32", channels_last=False, threads=1).name == "torch f32, channels first, 1 thread"
    assert Way("openvino", "f32").name == "openvino f32"


def test_what_was_measured_is_of_this_processor_and_these_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "installed_version", lambda name: f"{name} 1")
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    for text, name in (("model name\t: Xeon\nflags\t: avx2\n", "Xeon"), ("Processor\t: ARM\nflags\t: avx2\n", "ARM")):
        monkeypatch.setattr(processor, "read_text", lambda _, text=text: text)
        libraries = ("vit-hybrid", "transformers", "torch", "openvino", "onnxruntime")
        assert kept._here.__wrapped__() == {
            "processor": name,
            "instruction_sets": ["x86_64", "avx2"],
            "libraries": {name: f"{name} 1" for name in libraries},
        }
    monkeypatch.setattr(kept, "_here", lambda: {"processor": "ours"})
    monkeypatch.setattr(kept, "usable_cores", lambda: 3)
    assert kept.where("a GPU") == {"processor": "ours", "cores": 3, "device": "a GPU"}


@pytest.mark.parametrize(("cores", "threads"), [(1, [1]), (2, [2, 1]), (8, [8, 4]), (5, [5, 2])])
def test_all_cores_and_half_of_them_are_raced(cores: int, threads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "usable_cores", lambda: cores)
    found = list(ways.threaded(Way("openvino", "f32")))
    assert found == [Way("openvino", "f32", threads=number) for number in threads]


def test_newer_rows_take_the_place_of_all_of_their_precision() -> None:
    old = Table((Row(Way("torch", "bf16", "sdpa"), 1, 0.5, 3), Row(Way("openvino", "f32"), 1, 0.4, 3)))
    new = Row(Way("openvino", "bf16"), 1, 0.6, 3)
    assert old.with_rows([new]).rows == (old.rows[1], new)


def test_half_precisions_are_as_wide_as_each_other() -> None:
    rows = [Row(Way("openvino", name), 1, seconds, 3) for name, seconds in (("f32", 0.4), ("bf16", 0.1), ("f16", 0.2))]
    assert Table(tuple(rows)).slower_than_wider() == {}


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 0.0])
def test_a_row_whose_time_is_no_time_is_damage(seconds: float) -> None:
    line = {"way": vars(Way("openvino", "f32")), "batch_size": 1, "seconds": seconds, "rounds": 3}
    with pytest.raises(ValueError, match="no number above 0"):
        kept._row(line)


def test_winners_are_the_fastest_of_each_precision_and_batch_size() -> None:
    assert [(row.way, row.batch_size) for row in kept.winners(TABLE.rows)] == [(COMPILED, 1), (ONNX, 16), (HALF, 1)]
    assert {*kept.winners(TABLE.rows[::-1])} == {*kept.winners(TABLE.rows)}


def test_int8_is_named_beside_the_widest_that_is_as_fast() -> None:
    rows = [Row(Way("openvino", name), 1, seconds, 3) for name, seconds in (("f32", 0.3), ("bf16", 0.1), ("int8", 0.2))]
    assert Table(tuple(rows)).slower_than_wider() == {"int8": "bf16"}
    rows[0] = Row(Way("openvino", "f32"), 1, 0.2, 3)
    assert Table(tuple(rows)).slower_than_wider() == {"int8": "f32"}  # as fast is not faster


def test_what_torch_may_do_else_is_the_other_layout_and_compiling() -> None:
    other = Way("torch", "f32", "eager", channels_last=True)
    assert list(ways.laid_out(EAGER, False)) == [other]
    assert list(ways.laid_out(EAGER, True)) == [other, Way("torch", "f32", "eager", True, False)]
    assert list(ways.laid_out(OPENVINO, True)) == []


def test_torch_begins_with_the_layout_that_suits_its_precision_and_alone_beside_a_cpu() -> None:
    def of_torch(precision: str, on_cpu: bool) -> set[bool | None]:
        return {way.channels_last for way in ways.plain(precision, on_cpu) if way.engine == "torch"}

    assert of_torch("f32", True) == {False}
    assert of_torch("bf16", True) == of_torch("f32", False) == {True}
    assert [way.attention for way in ways.plain("f32", False)] == ["eager", "sdpa"]
    assert {way.engine for way in ways.plain("f32", False)} == {"torch"}
    assert of_torch("int8", True) == set()


def test_int8_begins_with_engines_whose_quantizer_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for missing, found in (("nncf", ["onnx"]), ("onnxscript", ["openvino"]), ("torch", ["openvino", "onnx"])):
        monkeypatch.setattr(ways, "_is_here", lambda package, missing=missing: package != missing)
        assert [way.engine for way in ways.plain("int8")] == found
    monkeypatch.setattr(ways, "_is_here", lambda package: True)
    monkeypatch.setattr(Runtime, "is_installed", lambda row: row.name != "openvino")
    assert [way.engine for way in ways.plain("int8")] == ["onnx"]  # what runs it has to be here, too


@pytest.mark.parametrize(
    ("precision", "dtype", "expected"),
    [
        ("auto", None, "f32"),
        ("bf16", None, "bf16"),
        ("auto", "bfloat16", "bf16"),
        ("f32", "torch.float16", "f16"),
        ("bf16", "auto", None),
    ],
)
def test_the_precision_that_was_asked_for(precision: str, dtype: str | None, expected: str | None) -> None:
    assert ways.named(precision, dtype) == expected
