"""From whatever names a model to an engine that runs it: which engine, from which bundle, made when."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..assets import BUILT_IN_MODEL
from ..bundles import cache
from ..bundles.calibration import DEFAULT_TIME_LIMIT, MADE_WARNING, CalibrationSource, fingerprint_of, limited
from ..bundles.manifest import CONVERSION_VERSION, FORMAT_VERSION, Bundle, read_bundle, versions
from ..checkpoints import published
from ..checkpoints.files import ModelLoadError, weights_paths
from ..checkpoints.kinds import Own
from ..checkpoints.opening import Source
from ..checkpoints.opening import open as open_source
from ..errors import EngineError, EngineWarning
from ..images.preprocessing import Preprocessing
from ..outputs.confidence import Confidence, ConfidenceError
from ..runtimes import (
    ALL,
    AUTO,
    ENGINES,
    FEATURES,
    FLOATING,
    LOGITS,
    OUTPUTS,
    PRECISIONS,
    RUNTIMES,
    TOKEN,
    check_installed,
    check_output,
    check_precision,
    check_token_merging,
)
from .devices import usable_device, usable_dtype
from .kept import measured
from .protocol import LoadedEngine, Specification
from .ways import Wanted, Way, chosen, named

if TYPE_CHECKING:
    import torch

    from ..bundles.program import Made
    from ..model.configuration import ViTHybridConfig
    from ..model.modeling import ViTHybridForImageClassification

Progress = Callable[[str], None]


def load(
    model: str | os.PathLike[str] | ViTHybridForImageClassification = BUILT_IN_MODEL,
    engine: str = AUTO,
    precision: str = AUTO,
    threads: int | None = None,
    device: str | torch.device | None = None,
    calibration: CalibrationSource = None,
    *,
    output: str = LOGITS,
    max_pixels: int | None = None,
    compile: bool | None = None,
    token_merging: int | None = None,
    dynamic: bool = False,
    attention: str | None = None,
    channels_last: bool | None = None,
    dtype: str | torch.dtype | None = None,
    preprocessing: Preprocessing | None = None,
    time_limit: float = DEFAULT_TIME_LIMIT,
    progress: Progress | None = None,
    batch_size: int = 1,
    pictures: int | None = None,
    tuned: bool = True,
    confidence: bool = True,
) -> LoadedEngine:
    """Loads a classifier for inference.

    What is not asked for follows what `vit-hybrid tune`, or a long job, measured here for a model of this shape: the
    engine, torch's attention, layout and compiling, and the number of threads. Where nothing was measured, or the model
    is given as an object, it is as said below.

    What a CPU engine runs is converted once and kept in the cache (`VIT_HYBRID_CACHE`, else `~/.cache/vit-hybrid`),
    keyed by the weights; the next start takes neither torch nor transformers.

    Args:
        model: A folder that `save_pretrained` wrote, a hub id, `"vit-hybrid-tiny-imagenet"` (the model in the package),
            a JAX `.npz` file, a file, folder or hub id of timm's, a bundle that `vit-hybrid export` wrote, or a
            classifier of this package.
        engine: "torch", "openvino" or "onnx". "auto" is what is fastest without a loss: openvino on a CPU where it is
            installed, else torch.
        precision: "f32", "bf16", "f16" (torch on a GPU) or "int8" (openvino, onnx). "auto" is a bundle's own, else f32.
        threads: How many to compute with; the engine's own number by default.
        device: Where to run, such as "cpu" or "cuda:0"; by default the accelerator that torch finds, else the CPU.
        calibration: For int8: a folder of pictures like those the model is for, or pixel values (N, C, H, W).
        output: What is computed: "auto" is what the confidence beside the weights needs, which `spec.confidence` then
            has, else the logits; "logits"; "features", what the classifier takes, (N, D); "both"; or "all", these and
            the class token before the last norm. It is one pass, for hardly more than the logits alone take.
            `LoadedEngine.run` gives them. The logits are the same, to the last bit in float32 ("all" of onnx but for
            rounding); openvino in bfloat16 and int8 rounds less on the way to features, and what follows from them.
        max_pixels: The most pixels that a calibration picture may have; 250 million by default.
        compile: Whether the torch engine compiles: frozen kernels on a CPU, CUDA graphs on a GPU; not, by default.
        token_merging: Tokens that the encoder merges per layer (see `model.token_merging`); faster, with a loss.
        dynamic: Whether pictures of other sizes are taken too, position embeddings resized bicubically.
        attention: "eager" or "sdpa", for the torch engine; by default what the model is loaded with.
        channels_last: Whether the torch engine keeps the channels of maps last; by default where that is faster.
        dtype: What the torch engine is to compute in, as torch names it, in place of `precision`; "auto" is what the
            weights were saved in.
        preprocessing: What turns pictures into the input of a classifier given as an object; other models say so
            themselves, or nothing does.
        time_limit: Seconds that quantization may take.
        progress: Called with a word on what is being done, where it takes long.
        batch_size: How many pictures will mostly go through at once: measurements are chosen by it, and openvino is
            fastest with it.
        pictures: How many will in all, where that is known: a model is not compiled for a few.
        tuned: Whether what was measured is followed.
        confidence: Whether what `vit-hybrid calibrate` wrote beside the weights is read, and refused where it does not
            fit them.

    Raises:
        EngineError: If an argument cannot be used, the engine is not installed (the message names the extra), or the
            model cannot be converted. `ModelLoadError` if there is no such model. Both are `ValueError`.
    """
    _check_arguments(engine, precision, threads)
    check_token_merging(token_merging, dynamic)
    if output != AUTO:
        check_output(output)
    options: dict[str, Any] = {"dynamic": dynamic, "token_merging": token_merging}
    runs: dict[str, Any] = {"threads": threads, "device": device, "output": output, "batch_size": batch_size}
    torch_only = {"compile": compile or False, "attention": attention, "channels_last": channels_last}
    fitted: Confidence | None = None
    if dtype is not None:
        if engine not in (AUTO, "torch") or precision != AUTO:
            raise EngineError("dtype is for the torch engine; give precision instead.")
        engine = "torch"
    if not isinstance(model, str | os.PathLike):
        place = model.device if device is None else device
        found = chosen(engine, precision, place, torch_only)
        source: Source | _InMemory = _InMemory(model, preprocessing)
        runs["output"] = LOGITS if output == AUTO else output
    else:
        source = open_source(model)
        fitted = source.confidence() if confidence else None
        if output == AUTO:
            runs["output"] = ALL if fitted is not None and fitted.needs_features else LOGITS
        if source.kind == "bundle":
            if dtype is not None:
                source.classifier()  # says why not
            if output == AUTO and TOKEN not in OUTPUTS[read_bundle(source.location).output]:
                runs["output"] = LOGITS
            loaded = _load_bundle(source, engine, precision, runs, {**options, **torch_only})
            return _with(fitted, loaded, threads)
        by_name = None if engine == AUTO else engine
        wanted = Wanted(by_name, named(precision, dtype), attention, compile, channels_last, threads, pictures)
        row = measured(source, wanted, device, batch_size) if tuned and not dynamic else None
        if row is None:
            found = chosen(engine, precision, device, torch_only)
        else:
            found, runs["threads"] = row.way.engine, row.way.threads
            torch_only = {
                "compile": row.way.compiled,
                "attention": row.way.attention,
                "channels_last": row.way.channels_last,
            }
    if found != "torch":
        given = [word for word, value in torch_only.items() if value]
        if given:
            raise EngineError(f"{given[0]} is for the torch engine, and {found} was asked for.")
        try:
            wanted_precision = named(precision, None)
            assert wanted_precision is not None
            kind = "f32" if wanted_precision in FLOATING else wanted_precision
            calibrating = limited(calibration, max_pixels)
            making = _Making(found, kind, calibrating, time_limit, progress, output=runs["output"], **options)
            return _with(fitted, _convert(source, making, wanted_precision, runs), runs["threads"])
        except ModelLoadError:
            raise
        except EngineError as error:
            if engine != AUTO or precision == "int8":
                raise
            warnings.warn(EngineWarning(f"{str(error).rstrip('.')}; running on torch"), stacklevel=2)
    return _with(fitted, _on_torch(source, precision, dtype, runs, options, torch_only), runs["threads"])


def _with(confidence: Confidence | None, loaded: LoadedEngine, threads: int | None) -> LoadedEngine:
    """The engine, which says how it runs and what its confidence is."""
    on_torch = getattr(loaded, "model", None)
    loaded.way = Way(
        loaded.name,
        loaded.precision,
        None if on_torch is None else on_torch.config._attn_implementation,
        getattr(loaded, "is_compiled", False),
        getattr(loaded, "channels_last", None),
        threads,
        loaded.spec.token_merging,
    )
    if confidence is not None:
        try:
            confidence.check_labels(loaded.spec.labels)
        except ConfidenceError as error:
            raise ModelLoadError(str(error)) from error
        if TOKEN not in OUTPUTS[loaded.spec.output]:
            confidence = replace(confidence, familiarity=None)  # which takes it
        loaded.spec = replace(loaded.spec, confidence=confidence)
    return loaded


def _check_arguments(engine: str, precision: str, threads: int | None) -> None:
    if engine in RUNTIMES and engine not in ENGINES:
        raise EngineError(f"{engine} is for export only; {RUNTIMES[engine].export_only}.")
    if engine not in (AUTO, *ENGINES):
        raise EngineError(f"engine is {engine!r}; expected {', '.join(map(repr, ENGINES))} or 'auto'.")
    if precision not in (AUTO, *PRECISIONS):
        raise EngineError(f"precision is {precision!r}; expected {', '.join(map(repr, PRECISIONS))} or 'auto'.")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise EngineError(f"threads is {threads!r}; expected a number of 1 or more.")


class _InMemory:
    """A classifier given as an object, with what a `Source` has of use here."""

    kind = "object"

    def __init__(self, model: ViTHybridForImageClassification, preprocessing: Preprocessing | None) -> None:
        self._model = model
        self.preprocessing = preprocessing

    def provenance(self) -> dict[str, str]:
        from ..bundles.making import object_provenance

        return object_provenance(self._model)

    def classifier(
        self, dtype: torch.dtype | str = AUTO, num_labels: int | None = None
    ) -> ViTHybridForImageClassification:
        """The object itself, in whatever it is."""
        return self._model


def _on_torch(
    source: Source | _InMemory,
    precision: str,
    dtype: str | torch.dtype | None,
    runs: dict[str, Any],
    options: dict[str, Any],
    torch_only: dict[str, Any],
) -> LoadedEngine:
    """The engine `torch`."""
    from .torch import DTYPES, TorchEngine

    if dtype is not None:
        model = _classifier(source, usable_dtype(dtype), runs["output"])
    else:
        precision = "f32" if precision == AUTO and source.kind != "object" else precision
        model = _classifier(source, DTYPES.get(precision, AUTO), runs["output"])
    runs = {name: value for name, value in runs.items() if name != "batch_size"}
    if source.kind != "object":
        runs["device"] = usable_device(runs["device"])
    if options["token_merging"] is not None:
        from ..model.token_merging import merge_tokens

        model = merge_tokens(model, options["token_merging"])
    engine = TorchEngine(
        model,
        source.preprocessing,
        precision=precision,
        compile=torch_only["compile"],
        attention=torch_only["attention"],
        channels_last=torch_only["channels_last"],
        dynamic=options["dynamic"],
        **runs,
    )
    engine.spec = replace(engine.spec, token_merging=options["token_merging"])
    return engine


def _classifier(source: Source | _InMemory, dtype: torch.dtype | str, output: str) -> ViTHybridForImageClassification:
    try:
        return source.classifier(dtype=dtype)
    except ModelLoadError:
        if output != FEATURES:
            raise
        return source.classifier(dtype=dtype, num_labels=0)  # there may be none, and none is needed


def configuration(model: str | os.PathLike[str]) -> ViTHybridConfig:
    """The configuration of the model that `load` would load; no weights are read.

    Raises:
        ModelLoadError: There is no such model.
    """
    return open_source(model).config


def classifier(model: str | os.PathLike[str]) -> ViTHybridForImageClassification:
    """The classifier in PyTorch of the model that `load` would load: on the CPU, in float32, folded.

    Raises:
        ModelLoadError: There is no such model, or it is a bundle, which has none.
    """
    return open_source(model).classifier(dtype="float32").fold_weight_standardization()


@dataclass(frozen=True)
class _Making:
    """What a bundle is to be made for, and with.

    Attributes:
        engine: One that runs converted programs.
        kind: "f32", which the runtime computes in whichever floating-point precision it is to, or "int8".
        calibration: Pictures for int8.
        time_limit: Seconds for quantization.
        progress: Called with what is being done.
        dynamic: Whether it is to take pictures of other sizes too.
        token_merging: Tokens to merge per layer.
        output: What it is to give.
    """

    engine: str
    kind: str
    calibration: CalibrationSource
    time_limit: float
    progress: Progress | None
    dynamic: bool
    token_merging: int | None
    output: str

    def key(self, source: Source | _InMemory, provenance: Mapping[str, str]) -> str:
        """What the bundle is kept under: whatever its content depends on."""
        parts: dict[str, Any] = {
            "engine": self.engine,
            "kind": self.kind,
            "format": FORMAT_VERSION,
            "conversion": CONVERSION_VERSION,
            "libraries": versions(self.engine, self.kind),
            **provenance,
            "dynamic": self.dynamic,
            "token_merging": self.token_merging,
            "output": self.output,
        }
        if self.kind == "int8":
            how = None if source.preprocessing is None else asdict(source.preprocessing)
            parts["calibration"] = fingerprint_of(self.calibration)
            parts |= {"preprocessing": how, "time_limit": self.time_limit}
        return cache.key_of(parts)

    def make(self, source: Source | _InMemory, provenance: Mapping[str, str]) -> Made:
        """The bundle, which nobody has written yet."""
        if self.progress is not None:
            self.progress(f"Loading the model to convert it for {self.engine}, once")
        builder = RUNTIMES[self.engine].builder
        if builder is not None and self.kind == "f32" and isinstance(source, Own):
            build = import_module(f"..bundles.{builder}", __package__).made_from_files
            how: dict[str, Any] = {"dynamic": self.dynamic, "token_merging": self.token_merging, "output": self.output}
            made: Made | None = build(source.fields(), weights_paths(source.location), provenance, **how)
            if made is not None:
                return made
        from ..bundles.making import make

        preprocessing = source.preprocessing
        if preprocessing is None and self.kind == "int8" and not isinstance(source, _InMemory):
            published.warn_of_stand_in(source.name)
        return make(
            _classifier(source, "float32", self.output),
            self.engine,
            self.kind,
            provenance,
            owned=source.kind != "object",
            dynamic=self.dynamic,
            token_merging=self.token_merging,
            output=self.output,
            calibration=self.calibration,
            preprocessing=preprocessing,
            time_limit=self.time_limit,
            progress=self.progress,
        )


def _convert(source: Source | _InMemory, making: _Making, precision: str, runs: dict[str, Any]) -> LoadedEngine:
    """The engine on a bundle from the cache, made where it is not there."""
    # Before the work of converting, where the engine could not run the outcome.
    check_installed(making.engine, f"the {making.engine} engine", RUNTIMES[making.engine].package)
    check_precision(making.engine, precision)
    _runner(making.engine).check_device(_named(runs["device"]))
    provenance = source.provenance()
    key, weights = making.key(source, provenance), provenance["weights_sha256"]
    if making.kind == "int8" and making.calibration is None:
        warnings.warn(EngineWarning(MADE_WARNING), stacklevel=3)
    entry = cache.find(key, weights)
    if entry is None:
        made = making.make(source, provenance)
        try:
            entry = cache.keep(key, weights, made.write)
        except cache.CacheUnusable as error:
            warnings.warn(EngineWarning(f"{error}, so this model is converted anew at each start"), stacklevel=3)
            return _run_unwritten(made, precision, source.preprocessing, runs)
    return _run(entry.folder, entry.bundle, precision, source.preprocessing, runs)


def _load_bundle(
    source: Source, engine: str, precision: str, runs: dict[str, Any], others: Mapping[str, Any]
) -> LoadedEngine:
    folder = source.location
    bundle = read_bundle(folder)
    if bundle.engine not in RUNTIMES:
        raise EngineError(f"{folder}: this bundle is for {bundle.engine}, which this version lacks; export it again.")
    row = RUNTIMES[bundle.engine]
    if row.export_only is not None:
        raise EngineError(f"{folder}: this bundle is for {bundle.engine}; {row.export_only}.")
    if engine not in (AUTO, bundle.engine):
        raise EngineError(
            f"{folder}: this bundle is for {bundle.engine}, and {engine} was asked for; export the model for {engine}."
        )
    wanted = bundle.precision if precision == AUTO else precision
    # Unless it is traced in its precision, the engine decides between its floating-point ones when it loads a program.
    late = set() if row.traced_in_precision else {*FLOATING} & {*row.precisions}
    if wanted != bundle.precision and not {wanted, bundle.precision} <= late:
        raise EngineError(
            f"{folder}: this bundle is in {bundle.precision}, and {wanted} was asked for; export the model in {wanted}."
        )
    if not {*OUTPUTS[runs["output"]]} <= {*OUTPUTS[bundle.output]}:
        raise EngineError(
            f"{folder}: this bundle gives {bundle.output} alone, and output={runs['output']!r} was asked for; give the "
            "model itself, or export it with features (vit-hybrid export --features)."
        )
    settled = {"dynamic": bundle.dynamic, "token_merging": bundle.token_merging, "compile": False}
    for name, value in others.items():
        if value and value != settled.get(name):
            raise EngineError(f"{folder}: {name} of a bundle is settled when it is exported ({settled.get(name)!r}).")
    return _run(Path(folder), bundle, wanted, source.preprocessing, runs)


def _run(
    folder: Path, bundle: Bundle, precision: str, preprocessing: Preprocessing | None, runs: Mapping[str, Any]
) -> LoadedEngine:
    return _started(folder / bundle.program, bundle, precision, preprocessing, runs)


def _run_unwritten(
    made: Made, precision: str, preprocessing: Preprocessing | None, runs: Mapping[str, Any]
) -> LoadedEngine:
    found = _started(made.converted.in_memory(), made.bundle, precision, preprocessing, runs)
    found.keeps = made  # the program shares the model's memory
    return found


def _started(
    program: Any, bundle: Bundle, precision: str, preprocessing: Preprocessing | None, runs: Mapping[str, Any]
) -> Any:  # a `LoadedEngine`
    row = RUNTIMES[bundle.engine]
    more: dict[str, Any] = {"batch_size": runs["batch_size"]} if row.fixes_batches else {}
    if row.keeps_compiled and isinstance(program, Path):
        more["checksums"] = {name: about["sha256"] for name, about in bundle.files.items()}
    spec = _specification(bundle, preprocessing, runs["output"])
    how = {"precision": precision, "threads": runs["threads"], "device": _named(runs["device"]), **more}
    return _runner(bundle.engine)(program, spec, **how)


def _runner(engine: str) -> Any:
    """The class that runs this engine's converted programs."""
    path = RUNTIMES[engine].runner
    assert path is not None, f"{engine} is for export only"
    module, _, name = path.partition(".")
    return getattr(import_module(f".{module}", __package__), name)


def _named(device: Any) -> str | None:
    return None if device is None else str(device)


def _specification(bundle: Bundle, preprocessing: Preprocessing | None, output: str) -> Specification:
    return Specification(
        labels=bundle.labels,
        problem_type=bundle.problem_type,
        num_channels=bundle.num_channels,
        image_size=bundle.image_size,
        dynamic=bundle.dynamic,
        preprocessing=preprocessing,
        output=output,
        feature_size=bundle.feature_size,
        token_merging=bundle.token_merging,
    )


__all__ = ["classifier", "configuration", "load"]
