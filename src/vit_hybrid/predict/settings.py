"""What a run is asked to do, and all of it that decides a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from .. import __version__
from ..bundles.calibration import fingerprint_of, limited
from ..checkpoints import opening
from ..checkpoints.files import read_json
from ..engines.ways import Way
from ..inference.facts import kind_of_device
from ..outputs import vectors
from ..outputs.confidence import check_levels
from ..outputs.problems import DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS
from ..outputs.vectors import Dtype, Normalization
from ..runtimes import ALL, AUTO, BOTH, BUNDLE_FILE, DEFAULT_BATCH_SIZE, FEATURES, LOGITS

# What an engine may be asked for by name, or left to choose; then what it chose counts.
CHOSEN = ("engine", "precision", "device", "threads")


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        model: What opens the model.
        form: Of the parts, one of `rows.FORMATS`.
        name: What the column is called that names a picture.
        top_k: How many labels a row has at most; 0 for vectors alone.
        embeddings: Whether a row has the vector that the classifier takes.
        dtype: Of the vectors.
        normalization: Of the vectors.
        confidence: Whether what was fitted for the model is used, where labels are wanted.
        coverage: How often sets of labels are to hold the truth, where there is confidence.
        false_alarms: Which share of pictures of what the model knows may be called none of these, likewise.
        engine: What `Predictor.from_pretrained` takes besides.
        title: What files of vectors call the model, if not as it is opened.
        settled: Fields of the `Way` that the model runs in, and `batch_size`; None where that is as engines choose it
            without having measured.
    """

    model: str
    form: str
    name: str = vectors.PATH
    top_k: int = 0
    embeddings: bool = False
    dtype: Dtype = "float32"
    normalization: Normalization = "none"
    confidence: bool = True
    coverage: float = DEFAULT_COVERAGE
    false_alarms: float = DEFAULT_FALSE_ALARMS
    engine: Mapping[str, Any] = field(default_factory=dict)
    title: str | None = None
    settled: Mapping[str, Any] | None = None

    @cached_property
    def asked(self) -> dict[str, Any]:
        """All that decides a row and is known before an engine is loaded, for JSON; a word for each in messages.

        Raises:
            ModelLoadError: There is no such model.
            ValueError: Its confidence cannot give `coverage`, or one of the shares is none.
        """
        source = opening.open(self.model)
        made = source.provenance()
        given = {name: value for name, value in self.engine.items() if name not in CHOSEN}
        engine = {name: value for name, value in given.items() if value}  # what is not asked for may be left out, too
        engine.setdefault("batch_size", DEFAULT_BATCH_SIZE)
        preprocessing = source.preprocessing
        program = read_json(self.model, source.location, BUNDLE_FILE)["files"] if source.kind == "bundle" else None
        calibration = engine.pop("calibration", None)
        sure = source.confidence() if self.top_k and self.confidence else None
        check_levels(sure, self.coverage, self.false_alarms)
        is_calibrated = self.engine.get("precision") == "int8" and program is None
        return {
            "weights": made["weights_sha256"],
            "configuration": made["config_sha256"],
            "exported program": program,
            "preprocessing": None if preprocessing is None else vectors.fingerprint(preprocessing),
            "calibration": fingerprint_of(limited(calibration, engine.get("max_pixels"))) if is_calibrated else None,
            **{name.replace("_", " "): value for name, value in engine.items()},
            "top-k": self.top_k,
            "confidence": None if sure is None else sure.fingerprint,
            "coverage": self.coverage if sure is not None and sure.sets else None,
            "false alarms": self.false_alarms if sure is not None and sure.needs_features else None,
            "embeddings": [self.dtype, self.normalization] if self.embeddings else None,
            "format": self.form,
            "release": __version__,
        }

    @property
    def output(self) -> str:
        """What an engine is to give."""
        if not self.top_k:
            return FEATURES
        if not self.embeddings:
            return LOGITS if self.asked["confidence"] is None else AUTO
        return BOTH if self.asked["false alarms"] is None else ALL

    def chosen(self) -> dict[str, Any]:
        """What of an engine's choices was asked for by name."""
        given = {name: self.engine.get(name) for name in CHOSEN}
        if given["device"] is not None:
            given["device"] = kind_of_device(str(given["device"]))
        return {name: value for name, value in given.items() if value not in (None, AUTO)}

    def with_threads(self, threads: int) -> Settings:
        """The same, on so many threads where none were asked for."""
        return self if self.engine.get("threads") is not None else self._but(engine={**self.engine, "threads": threads})

    def settled_as(self, settled: Mapping[str, Any] | None) -> Settings:
        """The same, in a way that is settled for the whole run, whatever is measured meanwhile."""
        engine: dict[str, Any] = {**self.engine, "tuned": False}
        if settled is None:
            engine["batch_size"] = engine.get("batch_size") or DEFAULT_BATCH_SIZE
        else:
            engine |= {**Way.from_fields(settled).options(), "dtype": None, "batch_size": settled["batch_size"]}
        return self._but(engine=engine, settled=settled)

    def titled(self, title: str) -> Settings:
        """The same, with what files of vectors call the model."""
        return self._but(title=title)

    def _but(self, **changes: Any) -> Settings:
        other = replace(self, **changes)
        other.__dict__["asked"] = self.asked  # of which nothing is changed; checksums of weights take a while
        return other


__all__ = ["CHOSEN", "Settings"]
