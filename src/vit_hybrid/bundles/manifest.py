"""What an exported model's folder says of itself in `bundle.json`: its files, its labels, where its weights are from.

Imports neither torch nor transformers: whoever runs a bundle needs neither.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..checkpoints.files import PREPROCESSOR_FILE
from ..errors import EngineError, one_line
from ..files import checksum, unfetched
from ..runtimes import BUNDLE_FILE, LOGITS, OUTPUTS, RUNTIMES

FORMAT = "vit-hybrid bundle"
# Raised whenever a reader of the last version could misunderstand what is written.
FORMAT_VERSION = 1
# That of bundles whose programs give features, which earlier releases would take for logits.
FEATURES_FORMAT_VERSION = 2
# Fields that earlier bundles lack, which are as they are by default.
LATER_FIELDS = ("output", "feature_size")
# Raised whenever the same model is converted to another program.
CONVERSION_VERSION = 4


@dataclass(frozen=True)
class Bundle:
    """An exported model: the content of `bundle.json`.

    Attributes:
        engine: What runs it, of `runtimes.EXPORTED`.
        precision: What it computes in, of `runtimes.PRECISIONS`.
        program: The file to load, beside which the format may keep others.
        labels: The labels, in the order of the logits.
        problem_type: What the logits mean, as in a configuration.
        num_channels: Channels of the pictures it takes.
        image_size: (height, width) in pixels.
        dynamic: Whether it takes other sizes too.
        token_merging: Tokens merged per layer, None for none.
        provenance: The model's name, checksums of its weights and configuration, and versions of the libraries.
        quantization: What was done to quantize it and what stayed in bfloat16; None where nothing was.
        check: How far its logits are from PyTorch's in float32, and on what; None where nobody looked.
        files: Size and checksum of each file.
        output: What the program gives, of `runtimes.OUTPUTS`.
        feature_size: Numbers in a picture's features.
    """

    engine: str
    precision: str
    program: str
    labels: tuple[str, ...]
    problem_type: str
    num_channels: int
    image_size: tuple[int, int]
    dynamic: bool = False
    token_merging: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    quantization: Mapping[str, Any] | None = None
    check: Mapping[str, Any] | None = None
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    output: str = LOGITS
    feature_size: int | None = None


def is_bundle(location: str | os.PathLike[str]) -> bool:
    """Whether `location` is the folder of a bundle."""
    return Path(location, BUNDLE_FILE).is_file()


def write_manifest(bundle: Bundle, folder: Path) -> Bundle:
    """Writes `bundle.json` beside the files that are in `folder`, with their checksums.

    Returns:
        The bundle with its files.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != BUNDLE_FILE)
    found = {name: {"bytes": (folder / name).stat().st_size, "sha256": checksum(folder / name)} for name in names}
    whole = replace(bundle, files=found)
    version = FORMAT_VERSION if bundle.output == LOGITS else FEATURES_FORMAT_VERSION
    content = {"format": FORMAT, "format_version": version, **asdict(whole)}
    (folder / BUNDLE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return whole


def read_bundle(folder: str | os.PathLike[str], check_files: bool = True) -> Bundle:
    """What the bundle in `folder` says of itself.

    Args:
        folder: The folder.
        check_files: Whether the files must be those that were written, to the last bit.

    Raises:
        EngineError: If it is no bundle, of a version that cannot be read, or a file is missing or another one.
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / BUNDLE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineError(
            f"{folder}: there is no {BUNDLE_FILE} in this folder; vit-hybrid export writes one."
        ) from None
    except (OSError, ValueError) as error:
        if (reason := unfetched(folder / BUNDLE_FILE)) is not None:
            raise EngineError(f"{folder}: its {BUNDLE_FILE} {reason}.") from error
        raise EngineError(
            f"{folder}: cannot read its {BUNDLE_FILE} ({one_line(error)}); export the model again."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise EngineError(f"{folder}: its {BUNDLE_FILE} is not that of a {FORMAT}; export the model again.")
    version = content.get("format_version")
    if version not in (FORMAT_VERSION, FEATURES_FORMAT_VERSION):
        writer = (content.get("provenance") or {}).get("vit_hybrid", "another version")
        raise EngineError(
            f"{folder}: the bundle has format {version!r}, written by vit-hybrid {writer}, and this version reads "
            f"format {FEATURES_FORMAT_VERSION}; export the model again, or install the version that wrote it."
        )
    try:
        names = [one.name for one in fields(Bundle) if one.name in content or one.name not in LATER_FIELDS]
        known = {name: content[name] for name in names}
        known["labels"] = tuple(map(str, known["labels"]))
        height, width = known["image_size"]
        known["image_size"] = int(height), int(width)
        known["num_channels"] = int(known["num_channels"])
        bundle = Bundle(**known)
        OUTPUTS[bundle.output]
        if check_files:
            _check_files(folder, bundle)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, EngineError):
            raise
        raise EngineError(
            f"{folder}: its {BUNDLE_FILE} is damaged ({one_line(error)}); export the model again."
        ) from error
    return bundle


def write_preprocessing(preprocessing: Mapping[str, Any], folder: Path) -> None:
    """Writes a `preprocessor_config.json`."""
    content = json.dumps(dict(preprocessing), indent=2, sort_keys=True) + "\n"
    (folder / PREPROCESSOR_FILE).write_text(content, encoding="utf-8")


def versions(engine: str, precision: str) -> dict[str, str]:
    """The releases of the libraries that make a bundle for that engine and precision."""
    row = RUNTIMES[engine]
    quantizer = row.quantizer if precision == "int8" else None
    names = ("transformers", "torch", *row.distributions, *([quantizer] if quantizer else ()))
    return {"vit_hybrid": installed_version("vit-hybrid"), **{name: installed_version(name) for name in names}}


def installed_version(distribution: str) -> str:
    """The release of a library that is installed; "none" where it is not."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def _check_files(folder: Path, bundle: Bundle) -> None:
    if bundle.program not in bundle.files:
        raise EngineError(f"{folder}: its {BUNDLE_FILE} does not list {bundle.program}; export the model again.")
    for name, about in bundle.files.items():
        path = folder / name
        if not path.is_file():
            raise EngineError(
                f"{folder}: {name} is missing from this bundle; copy the whole folder, or export it again."
            )
        size = path.stat().st_size
        if size != about["bytes"] and (reason := unfetched(path)) is not None:
            raise EngineError(f"{folder}: its {name} {reason}.")
        if size != about["bytes"]:
            raise EngineError(
                f"{folder}: {name} has {size} bytes and was exported with {about['bytes']}: it is cut short or from "
                "another bundle; copy the whole folder, or export it again."
            )
        if checksum(path) != about["sha256"]:
            raise EngineError(
                f"{folder}: {name} is not the file that was exported with this bundle (its checksum differs): it is "
                "damaged or from other weights; copy the whole folder, or export it again."
            )


__all__ = [
    "CONVERSION_VERSION",
    "FORMAT_VERSION",
    "Bundle",
    "installed_version",
    "is_bundle",
    "read_bundle",
    "versions",
    "write_manifest",
    "write_preprocessing",
]
