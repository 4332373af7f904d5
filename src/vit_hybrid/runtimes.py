"""Every engine there is, a row each: what it computes in, what it needs, what it runs, and where; the cores for it.

Whatever asks an engine's name, precisions or packages reads it here, so that a new engine is a row here and a file in
`engines`. Standard library only: a command reads it for its options before anything is loaded.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module, util
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .errors import EngineError, argument, needs

# Stands for an engine or a precision that is chosen where the model runs.
AUTO = "auto"
# The floating-point precisions. A program that is not traced in one of them serves all that its engine has.
FLOATING = ("f32", "bf16", "f16")
PRECISIONS = (*FLOATING, "int8")
# What a processor needs one of to compute in these by instructions of its own: names of `processor.instruction_sets`.
INSTRUCTIONS_OF_ITS_OWN: dict[str, frozenset[str]] = {
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "f16": frozenset({"avx512_fp16"}),
}
# What messages, and torch, call a precision. Nothing is converted to float64; a model may be in it.
DTYPE_NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "f64": "float64", "int8": "int8"}
# What the benchmark asks other libraries to compute in: they have these two wherever they run.
PEER_PRECISIONS = ("f32", "bf16")

# What an engine may be asked for, and what it then gives of each picture, in this order.
LOGITS, FEATURES, BOTH, ALL = "logits", "features", "both", "all"
# The class token before the last norm, which takes away how long it is.
TOKEN = "token"
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    LOGITS: (LOGITS,),
    FEATURES: (FEATURES,),
    BOTH: (LOGITS, FEATURES),
    ALL: (LOGITS, TOKEN, FEATURES),
}

# Pictures that are read, and go through a model, at once: it keeps a CPU busy, and 16 of 384 x 384 are only 28 MB.
DEFAULT_BATCH_SIZE = 16

# What OpenVINO loads at its own import, where it is there, for its function `convert_model`.
CONVERTER = "openvino.tools.ovc"

# The manifest of an exported model: a folder that has it is a bundle.
BUNDLE_FILE = "bundle.json"


@dataclass(frozen=True)
class Runtime:
    """An engine.

    Attributes:
        name: What options call it.
        precisions: What it computes in, of `PRECISIONS`.
        program: The file that a bundle keeps its program in.
        exporter: Module and class in `transformers.exporters` that convert a model to that.
        exporter_config: The exporter's configuration.
        package: What runs it, by the name that it is imported and installed under.
        converter_packages: What converting needs besides transformers and torch.
        extra: The extra of this package that brings all these; None where its own dependencies do.
        builder: Module in `bundles` that builds its programs in float32 without a trace; None where nothing does.
        quantizer: The package that quantizes its programs; None where nothing does.
        devices: Where it runs and what it calls these places; empty where it runs on whatever torch finds.
        runner: Module and class in `engines` that run its bundles; None where nothing here does. Unless the engine runs
            models too, the class has a `check_device`, which is asked before a model is converted.
        export_only: Why nothing here runs it; None where something does.
        runs_models: Whether it runs a model as it is, and converts one only for a bundle.
        traced_in_precision: Whether a program is traced in the precision that it computes in, instead of in float32.
        plans_memory: Whether a program is for one picture of one size, since its memory is planned beforehand.
        fixes_batches: Whether it makes kernels for a number of pictures, which it wants to know.
        keeps_compiled: Whether it keeps what it compiles, for which it wants to know the checksums of a bundle's files.
        hints: By precision, what the engine is told to compute in.
    """

    name: str
    precisions: tuple[str, ...]
    program: str
    exporter: str
    exporter_config: str
    package: str
    converter_packages: tuple[str, ...] = ()
    extra: str | None = None
    builder: str | None = None
    quantizer: str | None = None
    devices: Mapping[str, str] = field(default_factory=dict)
    runner: str | None = None
    export_only: str | None = None
    runs_models: bool = False
    traced_in_precision: bool = False
    plans_memory: bool = False
    fixes_batches: bool = False
    keeps_compiled: bool = False
    hints: Mapping[str, str] = field(default_factory=dict)

    @property
    def distributions(self) -> tuple[str, ...]:
        """All that takes part in converting for it and running it, besides transformers."""
        return tuple(dict.fromkeys((*self.converter_packages, self.package)))

    def is_installed(self) -> bool:
        """Whether what runs it is here."""
        return util.find_spec(self.package) is not None


RUNTIMES: Mapping[str, Runtime] = {
    row.name: row
    for row in (
        Runtime(
            name="openvino",
            precisions=PRECISIONS,
            program="openvino_model.xml",
            exporter="exporter_openvino.OpenVINOExporter",
            exporter_config="OpenVINOConfig",
            package="openvino",
            converter_packages=("openvino",),
            extra="openvino",
            builder="building",
            quantizer="nncf",
            devices={"cpu": "CPU"},
            runner="openvino.OpenVINOEngine",
            fixes_batches=True,
            keeps_compiled=True,
            # In int8, what is not quantized is computed in bfloat16 where the processor has it.
            hints={"f32": "f32", "bf16": "bf16", "f16": "f16", "int8": "bf16"},
        ),
        Runtime(
            name="onnx",
            precisions=("f32", "int8"),
            program="model.onnx",
            exporter="exporter_onnx.OnnxExporter",
            exporter_config="OnnxConfig",
            package="onnxruntime",
            converter_packages=("onnx", "onnxscript"),
            extra="onnx",
            quantizer="onnxruntime",
            devices={"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"},
            runner="onnx.OnnxEngine",
        ),
        Runtime(
            name="torch",
            precisions=FLOATING,
            program="model.pt2",
            exporter="exporter_dynamo.DynamoExporter",
            exporter_config="DynamoConfig",
            package="torch",
            runner="exported.ExportedEngine",
            runs_models=True,
            traced_in_precision=True,
        ),
        Runtime(
            name="executorch",
            precisions=("f32",),
            program="model.pte",
            exporter="exporter_executorch.ExecutorchExporter",
            exporter_config="ExecutorchConfig",
            package="executorch",
            converter_packages=("executorch",),
            extra="executorch",
            export_only="ExecuTorch's own runtime runs it, on the device it is for",
            traced_in_precision=True,
            plans_memory=True,
        ),
    )
}

# What models are exported for, and what runs them here, that which needs no conversion first.
EXPORTED = tuple(RUNTIMES)
ENGINES = tuple(
    row.name
    for row in sorted(RUNTIMES.values(), key=lambda row: not row.runs_models)  # which keeps the order of the others
    if row.export_only is None
)


@dataclass(frozen=True)
class HalfPrecision:
    """How PyTorch computes in bfloat16 and float16 on a CPU where nobody has measured.

    Attributes:
        instruction_set: What the processor has, as Linux calls it.
        eager_tokens: Up to so many tokens, plain matrix products ("eager") are faster there than fused attention
            ("sdpa").
        packs: Whether layers that widen are faster with weights that oneDNN has laid out (`model.packing`).
        measured: Where that is from.
    """

    instruction_set: str
    eager_tokens: int
    packs: bool
    measured: str


# The first row that a processor has counts; one that has none of them takes sdpa, and packs nothing.
IN_HALF_PRECISION = (
    HalfPrecision(
        "amx_bf16",
        0,
        True,
        "two cores of an Intel Xeon, R50+B/16 at 384 px, one picture: eager 197 ms, sdpa 150 ms; widening layers with "
        "GELU 2.9 ms as they are and 1.9 packed, the three projections 1.6 and 1.2",
    ),
    HalfPrecision(
        "avx512_bf16",
        577,
        False,
        "two cores of an AMD EPYC, R50+B/16 at 384 px, one picture: eager 0.53 s, sdpa 0.56 s; packed was not measured",
    ),
)

if TYPE_CHECKING:
    EngineName: TypeAlias = str
    EngineChoice: TypeAlias = str
    ExportedName: TypeAlias = str
    DtypeName: TypeAlias = str
    DtypeChoice: TypeAlias = str
    Precision: TypeAlias = str
    PrecisionChoice: TypeAlias = str
    FloatingPrecision: TypeAlias = str
else:
    # For options and fields, which are checked against them when a program runs; made of the table, not written again.
    EngineName = Literal[ENGINES]
    EngineChoice = Literal[(AUTO, *ENGINES)]
    ExportedName = Literal[EXPORTED]
    DtypeName = Literal[tuple(DTYPE_NAMES[precision] for precision in FLOATING)]
    DtypeChoice = Literal[DtypeName, AUTO]
    Precision = Literal[PRECISIONS]
    PrecisionChoice = Literal[(AUTO, *PRECISIONS)]
    FloatingPrecision = Literal[FLOATING]


def engines_with(precision: str) -> str:
    """The engines that compute in a precision, as a message says them: `openvino and onnx`."""
    return listed([name for name in EXPORTED if name in ENGINES and precision in RUNTIMES[name].precisions])


def precisions_said(name: str) -> str:
    """What an engine computes in, as a help text says it: `all`, `all but int8`, `f32 and int8`."""
    has = RUNTIMES[name].precisions
    lacks = [precision for precision in PRECISIONS if precision not in has]
    if len(lacks) > 1:
        return listed(has)
    return f"all but {lacks[0]}" if lacks else "all"


def check_precision(engine: str, precision: str) -> None:
    """Raises `EngineError` where an engine does not compute in a precision; the message names those that do."""
    has = RUNTIMES[engine].precisions
    if precision not in has:
        others = f"; {engines_with(precision)} have {precision}" if precision in PRECISIONS else ""
        raise EngineError(f"the {engine} engine computes in {listed(has, 'or')}, not {precision!r}{others}.")


def attention_in_half(tokens: int, instruction_sets: Collection[str]) -> str:
    """The attention, "eager" or "sdpa", that a CPU takes in bfloat16 and float16 where nobody has measured.

    Args:
        tokens: Of a picture, with the class token.
        instruction_sets: What the processor has: `engines.processor.instruction_sets`.
    """
    row = _in_half(instruction_sets)
    return "eager" if row is not None and tokens <= row.eager_tokens else "sdpa"


def packs_in_half(instruction_sets: Collection[str]) -> bool:
    """Whether a CPU with these instruction sets packs the weights of widening layers in bfloat16."""
    row = _in_half(instruction_sets)
    return row is not None and row.packs


def _in_half(instruction_sets: Collection[str]) -> HalfPrecision | None:
    return next((row for row in IN_HALF_PRECISION if row.instruction_set in instruction_sets), None)


def machine_cores() -> int:
    """How many cores the machine has, whoever may use them."""
    return os.cpu_count() or 1


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process may use: by its affinity and by the CPU quotas of its control groups, rounded up.

    Args:
        root: Where `proc` and `sys` are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(root))]))


def fewer_cores(root: Path = Path("/")) -> int | None:
    """`usable_cores` where these are fewer than the machine has, which is how many threads an engine then starts; None
    where nothing limits the process, and each library knows best.

    Args:
        root: As `usable_cores` takes it.
    """
    cores = usable_cores(root)
    return cores if cores < (os.cpu_count() or 1) else None


def _quotas(root: Path) -> Iterator[float]:
    """The cores that control groups leave this process, of version 1 and 2, from its own group up to the first."""
    groups = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            places, files = (groups, groups / "unified"), ["cpu.max"]
        elif "cpu" in controllers.split(","):
            places, files = (groups / controllers, groups / "cpu"), ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # In a container the name may be the host's, of which nothing is seen but the end, mounted as the first.
        own = PurePosixPath(name.lstrip("/"))
        for place in places:
            for group in (own, *own.parents):
                words = [word for file in files for word in _text(place / group / file).split()]
                if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
                    yield int(words[0]) / int(words[1])  # else "max", or -1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def openvino() -> Any:
    """The module of that name, without its converter of other libraries' models until that is called: loading it takes
    longer than all the rest.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    loaded = sys.modules.get("openvino")
    if loaded is not None:
        return loaded
    modules: dict[str, Any] = sys.modules
    is_new = modules.setdefault(CONVERTER, None) is None  # what is None is not found
    try:
        module = import_module("openvino")
    finally:
        if is_new:
            del sys.modules[CONVERTER]
    if not hasattr(module, "convert_model"):

        def convert_model(*args: Any, **kwargs: Any) -> Any:
            return import_module(CONVERTER).convert_model(*args, **kwargs)

        module.convert_model = convert_model  # type: ignore[attr-defined]
    return module


@contextmanager
def somewhere_at_home() -> Iterator[None]:
    """Names a home folder that is none where the user has none, since OpenVINO asks for one."""
    try:
        Path.home()
    except RuntimeError:  # neither HOME nor the system says
        os.environ["HOME"] = os.devnull
        try:
            yield
        finally:
            del os.environ["HOME"]
    else:
        yield


def check_installed(engine: str, action: str, *packages: str) -> None:
    """Raises `EngineError` that names the extra to install where one of the packages is missing."""
    missing = [name for name in dict.fromkeys(packages) if util.find_spec(name) is None]
    if missing:
        raise EngineError(needs(action, missing, RUNTIMES[engine].extra))


def check_output(output: str) -> None:
    """Raises `EngineError` where it is nothing that an engine gives."""
    if output not in OUTPUTS:
        raise EngineError(f"output is {output!r}; expected {listed([repr(name) for name in OUTPUTS], 'or')}.")


def check_tokens_per_layer(token_merging: int) -> None:
    """Raises `EngineError` where it is no number of tokens to merge per layer."""
    if isinstance(token_merging, bool) or not isinstance(token_merging, int) or token_merging < 1:
        name = argument("token_merging")
        raise EngineError(f"{name} is {token_merging!r}; expected the tokens to merge per layer, 1 or more.")


def check_token_merging(token_merging: int | None, dynamic: bool) -> None:
    """Raises `EngineError` where it is no number of tokens, or how many there are is left open."""
    if token_merging is None:
        return
    check_tokens_per_layer(token_merging)
    if dynamic:
        raise EngineError(
            f"{argument('token_merging')} needs to know how many tokens there are, so it does not go with dynamic "
            "sizes."
        )


def listed(names: tuple[str, ...] | list[str], word: str = "and") -> str:
    """Names as a sentence lists them: `f32, bf16 or f16`."""
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


__all__ = [
    "ALL",
    "AUTO",
    "BOTH",
    "BUNDLE_FILE",
    "DEFAULT_BATCH_SIZE",
    "DTYPE_NAMES",
    "ENGINES",
    "EXPORTED",
    "FEATURES",
    "FLOATING",
    "INSTRUCTIONS_OF_ITS_OWN",
    "IN_HALF_PRECISION",
    "LOGITS",
    "OUTPUTS",
    "PEER_PRECISIONS",
    "PRECISIONS",
    "RUNTIMES",
    "TOKEN",
    "DtypeChoice",
    "DtypeName",
    "EngineChoice",
    "EngineName",
    "ExportedName",
    "FloatingPrecision",
    "HalfPrecision",
    "Precision",
    "PrecisionChoice",
    "Runtime",
    "attention_in_half",
    "check_installed",
    "check_output",
    "check_precision",
    "check_token_merging",
    "check_tokens_per_layer",
    "engines_with",
    "fewer_cores",
    "machine_cores",
    "openvino",
    "packs_in_half",
    "precisions_said",
    "somewhere_at_home",
    "usable_cores",
]
