"""Programs and bundles that nobody has written yet, whoever made them. Imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model.geometry import as_pair
from ..outputs.problems import labels_of, problem_type_of
from ..runtimes import RUNTIMES, somewhere_at_home
from .manifest import Bundle, versions, write_manifest, write_preprocessing

if TYPE_CHECKING:
    from .calibration import Calibration

# In a program that is built a layer's product has its name; those of a merge of tokens have this in theirs.
MERGING = "merging"


@dataclass
class Converted:
    """A converted model.

    Attributes:
        engine: What it is for.
        program: The engine's own: an `openvino.Model`, an `onnx_ir.Model`, an `ExportedProgram` ...
        save: Writes a program and the configuration into a folder.
    """

    engine: str
    program: Any
    save: Callable[[Any, Path], object]

    @property
    def file(self) -> str:
        """The name of the file that the program is written to."""
        return RUNTIMES[self.engine].program

    def in_memory(self) -> Any:
        """The program as its engine takes it without a file; it may share the memory of the model it is from."""
        if self.engine != "onnx":
            return self.program
        import onnx_ir

        return onnx_ir.to_proto(self.program).SerializeToString()

    @somewhere_at_home()
    def write(self, folder: Path) -> None:
        """Writes the program and the configuration.

        Raises:
            OSError: If it cannot be written.
        """
        self.save(self.program, folder)


@dataclass
class Made:
    """A bundle.

    Attributes:
        converted: Its program.
        bundle: What it says of itself.
        preprocessing: Fields of its `preprocessor_config.json`; None for none.
        calibration: The pictures that it was calibrated with; None where it was not.
        reference: The prepared PyTorch model, without token merging; the program may share its memory. None where there
            was none.
    """

    converted: Converted
    bundle: Bundle
    preprocessing: Mapping[str, Any] | None = None
    calibration: Calibration | None = None
    reference: Any = None

    def write(self, folder: Path) -> Bundle:
        """Writes everything into a folder that is there and empty.

        Raises:
            OSError: If it cannot be written.
        """
        self.converted.write(folder)
        if self.preprocessing is not None:
            write_preprocessing(self.preprocessing, folder)
        return write_manifest(self.bundle, folder)


def described(
    config: Any,
    converted: Converted,
    precision: str,
    provenance: Mapping[str, Any],
    *,
    dynamic: bool,
    token_merging: int | None,
    output: str,
    quantization: Mapping[str, Any] | None = None,
) -> Bundle:
    """What a bundle says of itself.

    Args:
        config: The model's configuration, or `plain_config` of its fields.
        converted: Its program.
        precision: What it computes in.
        provenance: The model's name and the checksums of its weights and configuration.
        dynamic, token_merging, output, quantization: See `Bundle`.
    """
    return Bundle(
        engine=converted.engine,
        precision=precision,
        program=converted.file,
        labels=labels_of(config),
        problem_type=problem_type_of(config),
        num_channels=config.num_channels,
        image_size=as_pair(config.image_size),
        dynamic=dynamic,
        token_merging=token_merging,
        provenance={
            **provenance,
            **versions(converted.engine, precision),
            "created": datetime.now(UTC).isoformat("T", "seconds"),
        },
        quantization=quantization,
        output=output,
        feature_size=config.representation_size or config.hidden_size,
    )


__all__ = ["MERGING", "Converted", "Made", "described"]
