"""The table of engines is complete, who reads it agrees with it, and nobody keeps a list of his own."""

import ast
import os
import sys
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import fresh_process
import pytest
from typer.testing import CliRunner

import vit_hybrid
from vit_hybrid import engines, runtimes
from vit_hybrid.engines.processor import ABILITIES
from vit_hybrid.errors import EngineError
from vit_hybrid.runtimes import (
    AUTO,
    BUNDLE_FILE,
    DTYPE_NAMES,
    ENGINES,
    EXPORTED,
    FLOATING,
    IN_HALF_PRECISION,
    INSTRUCTIONS_OF_ITS_OWN,
    OUTPUTS,
    PRECISIONS,
    RUNTIMES,
    Runtime,
    attention_in_half,
    fewer_cores,
    packs_in_half,
    usable_cores,
)

PACKAGE = Path(vit_hybrid.__file__).parent
ROWS = pytest.mark.parametrize("row", RUNTIMES.values(), ids=lambda row: row.name)


class TestRows:
    def test_what_there_is(self) -> None:
        assert EXPORTED == ("openvino", "onnx", "torch", "executorch")
        assert ENGINES == ("torch", "openvino", "onnx")
        assert PRECISIONS == ("f32", "bf16", "f16", "int8")
        assert {name: row.precisions for name, row in RUNTIMES.items()} == {
            "openvino": ("f32", "bf16", "f16", "int8"),
            "onnx": ("f32", "int8"),
            "torch": ("f32", "bf16", "f16"),
            "executorch": ("f32",),
        }

    @ROWS
    def test_is_complete(self, row: Runtime) -> None:
        assert RUNTIMES[row.name] is row
        assert row.precisions
        assert set(row.precisions) <= set(PRECISIONS)
        assert list(row.precisions) == sorted(row.precisions, key=PRECISIONS.index)
        assert row.program
        assert row.package in row.distributions
        assert ("int8" in row.precisions) == (row.quantizer is not None)
        assert set(row.hints) in (set(), set(row.precisions))
        assert set(row.hints.values()) <= set(FLOATING)
        assert (row.runner is None) == (row.export_only is not None) == (row.name not in ENGINES)

    def test_no_two_write_the_same_file(self) -> None:
        assert len({row.program for row in RUNTIMES.values()}) == len(RUNTIMES)

    def test_what_bundles_that_were_written_before_are_read_by(self) -> None:
        assert {name: row.program for name, row in RUNTIMES.items()} == {
            "openvino": "openvino_model.xml",
            "onnx": "model.onnx",
            "torch": "model.pt2",
            "executorch": "model.pte",
        }
        assert BUNDLE_FILE == "bundle.json"

    def test_what_each_is_asked_for_and_told(self) -> None:
        openvino, onnx, torch, executorch = RUNTIMES.values()
        assert openvino.hints == {"f32": "f32", "bf16": "bf16", "f16": "f16", "int8": "bf16"}
        assert openvino.devices == {"cpu": "CPU"}
        assert onnx.devices == {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
        assert (onnx.hints, torch.devices, torch.hints, executorch.devices) == ({}, {}, {}, {})
        assert [row.extra for row in RUNTIMES.values()] == ["openvino", "onnx", None, "executorch"]
        assert [row.distributions for row in RUNTIMES.values()] == [
            *(("openvino",), ("onnx", "onnxscript", "onnxruntime"), ("torch",), ("executorch",))
        ]
        assert [row.fixes_batches for row in RUNTIMES.values()] == [True, False, False, False]
        assert [row.keeps_compiled for row in RUNTIMES.values()] == [True, False, False, False]
        assert [row.quantizer for row in RUNTIMES.values()] == ["nncf", "onnxruntime", None, None]
        assert [row.builder for row in RUNTIMES.values()] == ["building", None, None, None]
        assert executorch.export_only == "ExecuTorch's own runtime runs it, on the device it is for"
        assert [row.traced_in_precision for row in RUNTIMES.values()] == [False, False, True, True]
        assert [row.plans_memory for row in RUNTIMES.values()] == [False, False, False, True]

    def test_what_an_engine_gives_stands_in_this_order(self) -> None:
        both, everything = ("logits", "features"), ("logits", "token", "features")
        assert dict(OUTPUTS) == {"logits": ("logits",), "features": ("features",), "both": both, "all": everything}

    def test_which_processors_have_instructions_for_half_precision(self) -> None:
        assert {name: {*sets} for name, sets in INSTRUCTIONS_OF_ITS_OWN.items()} == {
            "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
            "f16": {"avx512_fp16"},
        }

    def test_only_one_runs_models_as_they_are(self) -> None:
        assert [row.name for row in RUNTIMES.values() if row.runs_models] == [ENGINES[0]] == ["torch"]

    @ROWS
    def test_has_its_exporter(self, row: Runtime) -> None:
        exporters = import_module("transformers.exporters")
        module, _, name = row.exporter.partition(".")
        assert hasattr(import_module(f"transformers.exporters.{module}"), name)
        assert hasattr(exporters, row.exporter_config)

    @ROWS
    def test_has_its_builder(self, row: Runtime) -> None:
        if row.builder is not None:
            building = import_module(f"vit_hybrid.bundles.{row.builder}")
            assert callable(building.converted_from)
            assert callable(building.made_from_files)

    @pytest.mark.parametrize("name", ENGINES)
    def test_has_its_runner(self, name: str) -> None:
        module, _, runner = str(RUNTIMES[name].runner).partition(".")
        assert getattr(import_module(f"vit_hybrid.engines.{module}"), runner).name == name

    def test_every_precision_has_a_dtype_of_torch(self) -> None:
        import torch

        assert set(PRECISIONS) <= set(DTYPE_NAMES)
        assert all(isinstance(getattr(torch, name), torch.dtype) for name in DTYPE_NAMES.values())
        kinds = [getattr(torch, DTYPE_NAMES[name]) for name in (*PRECISIONS, "f64")]
        assert kinds == [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float64]

    def test_importing_it_loads_nothing_heavy(self) -> None:
        source = (PACKAGE / "runtimes.py").read_text()
        imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
        assert {name.partition(".")[0] for name in imported if name} <= {*sys.stdlib_module_names, "errors"}


class TestReaders:
    def test_the_package_hands_on_its_names(self) -> None:
        assert engines.ENGINES is ENGINES
        assert engines.PRECISIONS is PRECISIONS

    def test_torch_has_the_dtypes_of_its_row(self) -> None:
        import torch

        from vit_hybrid.bundles.conversion import DTYPES

        assert tuple(DTYPES) == RUNTIMES["torch"].precisions == FLOATING
        assert DTYPES["bf16"] is torch.bfloat16

    @pytest.mark.parametrize(
        ("command", "option", "expected"),
        [
            ("classify", "--engine", (AUTO, *ENGINES)),
            ("evaluate", "--engine", (AUTO, *ENGINES)),
            ("probe", "--engine", (AUTO, *ENGINES)),
            ("classify", "--precision", (AUTO, *PRECISIONS)),
            ("evaluate", "--precision", (AUTO, *PRECISIONS)),
            ("probe", "--precision", (AUTO, *PRECISIONS)),
            ("classify", "--dtype", (*(DTYPE_NAMES[name] for name in FLOATING), AUTO)),
            ("export", "--engine", EXPORTED),
            ("export", "--precision", PRECISIONS),
            ("train", "--precision", FLOATING),
        ],
    )
    def test_options_take_what_the_table_has(self, command: str, option: str, expected: tuple[str, ...]) -> None:
        from vit_hybrid.cli.main import app

        arguments = {"export": ["model", "out"], "train": ["data", "--output", "out"]}.get(command, ["data"])
        result = CliRunner().invoke(app, [command, *arguments, option, "nope"], env={"COLUMNS": "300"})
        assert result.exit_code == 2
        assert f"is not one of {', '.join(map(repr, expected))}." in result.output

    def test_a_recipe_takes_the_floating_precisions(self) -> None:
        from vit_hybrid.train.recipe import Recipe

        assert typing.get_args(Recipe.model_fields["precision"].annotation) == FLOATING

    def test_the_benchmark_knows_all_engines_and_rates(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vit_hybrid.benchmark import contenders

        assert set(contenders.RATE_OF) == set(PRECISIONS)
        assert contenders.RATE_OF["int8"] == "bf16"
        monkeypatch.setattr(runtimes.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
        assert contenders.installed_engines() == ("torch", "openvino")

    def test_versions_are_those_of_the_rows(self) -> None:
        from vit_hybrid.bundles.manifest import versions

        for name, row in RUNTIMES.items():
            assert {"vit_hybrid", "transformers", "torch", *row.distributions} == set(versions(name, "f32"))
        assert "nncf" in versions("openvino", "int8")
        assert "nncf" not in versions("onnx", "int8")  # which ONNX Runtime quantizes


class TestMessages:
    @pytest.mark.parametrize(
        ("engine", "precision", "expected"),
        [
            ("onnx", "bf16", "onnx engine computes in f32 or int8, not 'bf16'; openvino and torch have bf16."),
            (
                "torch",
                "int8",
                "torch engine computes in f32, bf16 or f16, not 'int8'; openvino and onnx have int8.",
            ),
            ("torch", "fp8", "torch engine computes in f32, bf16 or f16, not 'fp8'."),
            ("executorch", "f16", "executorch engine computes in f32, not 'f16'; openvino and torch have f16."),
        ],
    )
    def test_a_precision_that_is_not_there(self, engine: str, precision: str, expected: str) -> None:
        with pytest.raises(EngineError) as caught:
            runtimes.check_precision(engine, precision)
        assert str(caught.value) == f"the {expected}"

    @ROWS
    def test_all_others_are(self, row: Runtime) -> None:
        for precision in row.precisions:
            runtimes.check_precision(row.name, precision)

    def test_help_says_what_each_computes_in(self) -> None:
        assert runtimes.engines_with("f32") == "openvino, onnx and torch"  # which run it here
        said = [runtimes.precisions_said(name) for name in EXPORTED]
        assert said == ["all", "f32 and int8", "all but int8", "f32"]

    def test_missing_packages_are_named_once_with_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runtimes.util, "find_spec", lambda name: None)
        with pytest.raises(EngineError) as caught:
            runtimes.check_installed("onnx", "exporting for onnx", "onnx", "onnxruntime", "onnx")
        assert str(caught.value) == (
            "exporting for onnx needs onnx, onnxruntime, not installed here; pip install 'vit-hybrid[onnx]' brings it."
        )

    def test_what_an_engine_gives(self) -> None:
        for output in ("logits", "features", "both", "all"):
            runtimes.check_output(output)
        with pytest.raises(EngineError, match="output is 'maps'; expected 'logits', 'features', 'both' or 'all'"):
            runtimes.check_output("maps")

    @pytest.mark.parametrize("wrong", [0, -1, True, 2.0, "2"])
    def test_no_number_of_tokens(self, wrong: object) -> None:
        with pytest.raises(EngineError, match="expected the tokens to merge per layer, 1 or more"):
            runtimes.check_tokens_per_layer(wrong)  # type: ignore[arg-type]

    def test_token_merging_wants_a_known_size(self) -> None:
        runtimes.check_token_merging(None, dynamic=True)
        runtimes.check_token_merging(2, dynamic=False)
        with pytest.raises(EngineError, match="does not go with dynamic sizes"):
            runtimes.check_token_merging(2, dynamic=True)


NAMES = {*EXPORTED, *PRECISIONS}


def lists_of_names(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Where a tuple, list, set, dictionary or `Literal` holds two or more names of engines or precisions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            held = node.elts
        elif isinstance(node, ast.Dict):
            held = [key for key in node.keys if key is not None]
        else:
            continue
        names = {one.value for one in held if isinstance(one, ast.Constant) and one.value in NAMES}
        if len(names) > 1:
            yield node.lineno, names


@pytest.mark.parametrize(
    "path", [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "runtimes.py"], ids=str
)
def test_nobody_keeps_a_list_of_his_own(path: Path) -> None:
    assert list(lists_of_names(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('x: Literal["f32", "bf16"] | None', 1),
        ('X = {"openvino": 1, "onnx": 2}', 1),
        ('if precision in ("f32", "int8"): ...', 1),
        ('X = [*A, "torch", "onnx"]', 1),
        ('X = {"f32", "bf16"}', 1),
        ('if precision in (AUTO, "f32"): ...', 0),
        ('LIBRARIES = ("torch", "transformers")', 0),
    ],
)
def test_what_counts_as_a_list(source: str, count: int) -> None:
    assert len(list(lists_of_names(ast.parse(source)))) == count


class TestAttentionInHalf:
    @pytest.mark.parametrize(
        ("instruction_sets", "tokens", "attention"),
        [
            (["x86_64", "avx512f", "avx512_bf16"], 577, "eager"),
            (["x86_64", "avx512f", "avx512_bf16"], 578, "sdpa"),
            (["x86_64", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"], 17, "sdpa"),
            (["x86_64", "avx512f"], 17, "sdpa"),
            (["aarch64"], 17, "sdpa"),
        ],
    )
    def test_follows_what_the_processor_multiplies_with(
        self, instruction_sets: list[str], tokens: int, attention: str
    ) -> None:
        assert attention_in_half(tokens, instruction_sets) == attention

    @pytest.mark.parametrize(
        ("instruction_sets", "packs"),
        [(["avx512_bf16", "amx_bf16"], True), (["avx512_bf16"], False), (["amx_tile"], False), ([], False)],
    )
    def test_wide_layers_are_packed_where_that_was_faster(self, instruction_sets: list[str], packs: bool) -> None:
        assert packs_in_half(instruction_sets) is packs

    def test_each_row_says_where_it_was_measured(self) -> None:
        for row in IN_HALF_PRECISION:
            assert row.instruction_set in ABILITIES
            assert "cores of a" in row.measured


class TestUsableCores:
    """Control groups as files of a folder that stands for the machine's root."""

    @pytest.fixture(autouse=True)
    def eight_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 8)

    @staticmethod
    def machine(root: Path, group: str, **files: str) -> Path:
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(group)
        for name, content in files.items():
            file = root / "sys/fs/cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return root

    @pytest.mark.parametrize(
        ("content", "cores"),
        [
            ("0 100000", 1),
            ("50000 100000", 1),
            ("150000 100000", 2),
            ("max 100000", 8),
            ("900000 100000", 8),
            ("", 8),
            ("x y", 8),
            ("5 0", 8),
        ],
    )
    def test_of_a_quota_of_version_2(self, tmp_path: Path, content: str, cores: int) -> None:
        root = self.machine(tmp_path, "0::/\n", **{"cpu.max": content})
        assert usable_cores(root) == cores
        assert fewer_cores(root) == (cores if cores < 8 else None)

    def test_the_least_of_a_group_and_those_above_it_counts(self, tmp_path: Path) -> None:
        files = {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000", "c/cpu.max": "100000 100000"}
        assert usable_cores(self.machine(tmp_path, "0::/a/b\n", **files)) == 3

    @pytest.mark.parametrize(
        ("quota", "cores"), [("200000\n", 2), ("250000\n", 3), ("-1\n", 8)], ids=["whole", "rounded up", "none"]
    )
    @pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
    def test_of_a_quota_of_version_1(self, tmp_path: Path, folder: str, quota: str, cores: int) -> None:
        files = {f"{folder}/docker/12/cpu.cfs_quota_us": quota, f"{folder}/docker/12/cpu.cfs_period_us": "100000\n"}
        files |= {"cpu/other/cpu.cfs_quota_us": "100000", "cpu/other/cpu.cfs_period_us": "100000"}
        group = "6:cpuset:/other\n5:memory:/docker/12\n4:cpu,cpuacct:/docker/12\n0::/\n"
        assert usable_cores(self.machine(tmp_path, group, **files)) == cores

    def test_of_a_hybrid_of_both_versions(self, tmp_path: Path) -> None:
        files = {"unified/docker/12/cpu.max": "300000 100000", "cpu/docker/13/cpu.cfs_quota_us": "100000"}
        assert usable_cores(self.machine(tmp_path, "1:name=systemd:/docker/13\n0::/docker/12\n", **files)) == 3

    def test_of_a_container_that_sees_its_own_group_as_the_first(self, tmp_path: Path) -> None:
        files = {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}
        assert usable_cores(self.machine(tmp_path, "3:cpu,cpuacct:/docker/of/the/host\n", **files)) == 4

    def test_of_affinity_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5}, raising=False)
        assert usable_cores(tmp_path) == fewer_cores(tmp_path) == 2
        assert usable_cores(self.machine(tmp_path, "0::/\n", **{"cpu.max": "400000 100000"})) == 2

    def test_where_the_system_knows_no_affinity(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "sched_getaffinity")
        assert usable_cores(tmp_path) == 8
        assert fewer_cores(tmp_path) is None
        monkeypatch.setattr(os, "cpu_count", lambda: None)  # nor how many cores there are
        assert (usable_cores(tmp_path), fewer_cores(tmp_path), runtimes.machine_cores()) == (1, None, 1)

    def test_nobody_counts_cores_for_himself(self) -> None:
        said = {"cpu_count", "sched_getaffinity", "process_cpu_count"}
        for path in PACKAGE.rglob("*.py"):
            names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
            # The benchmark tells how many the machine has, beside how many may be used.
            assert path.name == "runtimes.py" or not names & said or path.name == "machine.py", path


class TestOpenVINO:
    def test_is_loaded_without_its_converter_till_that_is_called(self) -> None:
        """Which other libraries may do, by the name that it has."""
        pytest.importorskip("openvino")
        code = """
import sys
from vit_hybrid.runtimes import CONVERTER, openvino
module = openvino()
assert module is sys.modules["openvino"] is openvino()
print(CONVERTER in sys.modules)
try:
    module.convert_model("there-is-none.onnx")
except Exception as error:
    print("there-is-none.onnx" in str(error))
print(sys.modules[CONVERTER].convert_model is not None)
"""
        assert fresh_process.run(code, env={"TF_BUILD": "1"}).split() == ["False", "True", "True"]

    def test_one_that_is_loaded_stays_as_it_is(self) -> None:
        openvino = pytest.importorskip("openvino")
        before = openvino.convert_model
        assert runtimes.openvino() is openvino
        assert openvino.convert_model is before

    @pytest.mark.parametrize("is_loaded", [False, True])
    def test_a_converter_that_was_loaded_before_stays(self, is_loaded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        module, converter = ModuleType("openvino"), ModuleType(runtimes.CONVERTER)
        converter.convert_model = lambda *given: ("converted", *given)  # type: ignore[attr-defined]
        hidden: list[Any] = []

        def load(name: str) -> ModuleType:
            hidden.append(sys.modules.get(runtimes.CONVERTER, "nothing"))
            return {"openvino": module, runtimes.CONVERTER: converter}[name]

        monkeypatch.setattr(runtimes, "import_module", load)
        for name in ("openvino", runtimes.CONVERTER):
            monkeypatch.delitem(sys.modules, name, raising=False)
        if is_loaded:
            monkeypatch.setitem(sys.modules, runtimes.CONVERTER, converter)
        assert runtimes.openvino() is module
        assert hidden == [converter if is_loaded else None]
        assert (runtimes.CONVERTER in sys.modules) is is_loaded
        assert module.convert_model("a.onnx") == ("converted", "a.onnx")

    def test_is_missing_where_it_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(ImportError):
            runtimes.openvino()
        assert runtimes.CONVERTER not in sys.modules or sys.modules[runtimes.CONVERTER] is not None


def test_a_home_that_is_named_for_openvino_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with runtimes.somewhere_at_home():
        assert os.environ["HOME"] == os.devnull
    assert "HOME" not in os.environ
    with pytest.raises(ValueError, match="within"), runtimes.somewhere_at_home():
        raise ValueError("within")
    assert "HOME" not in os.environ


def test_a_home_that_there_is_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with runtimes.somewhere_at_home():
        assert os.environ["HOME"] == str(tmp_path)
    assert os.environ["HOME"] == str(tmp_path)


def test_names_as_a_sentence_lists_them() -> None:
    assert [runtimes.listed(names) for names in ((), ("a",), ("a", "b"))] == ["", "a", "a and b"]
    assert runtimes.listed(["a", "b", "c"], "or") == "a, b or c"
