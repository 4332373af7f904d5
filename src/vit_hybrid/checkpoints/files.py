"""The files of a model in a folder or on the Hugging Face Hub, and what is wrong with them in one line.

Imports neither torch nor transformers: an exported model starts without them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..assets import BUILT_IN_MODEL
from ..errors import one_line
from ..files import unfetched
from ..images.preprocessing import Preprocessing
from ..outputs.confidence import ARRAYS_FILE, CONFIDENCE_FILE, Confidence, ConfidenceError
from ..outputs.confidence import read as read_files
from ..registration import MODEL_TYPE
from ..runtimes import BUNDLE_FILE

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
CARD_FILE = "README.md"
# A card is read by people; what is longer is something else.
MOST_OF_A_CARD = 1 << 17
# In the order in which transformers looks for them.
WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INDEX_SUFFIX = ".index.json"
SAFETENSORS_SUFFIX = ".safetensors"

# How files of the two other code bases end: the authors' JAX code's, those that are written for timm, and what else
# training programs call such files.
JAX_SUFFIX = ".npz"
TIMM_SUFFIXES = (SAFETENSORS_SUFFIX, ".bin", ".pt", ".pth")
PICKLED_SUFFIXES = (".tar", ".ckpt")
# What a hub id of timm's starts with, and what it writes before other people's.
HUB_PREFIXES = ("hf-hub:", "hf_hub:")
TIMM_HUB_PREFIXES = ("timm/", *HUB_PREFIXES)

# What torch.load says of objects that would run code, with what the object is called; and of a pickle that
# pickle.dump wrote, since torch.save writes older ones.
_FOREIGN_OBJECT = re.compile(r"[Uu]nsupported (?:(?:global: )?GLOBAL|class) ([\w.]+)")
_FOREIGN_PICKLE = "Unsupported operand 149"
_PROGRAM = "TorchScript"

_PURPOSE = {
    CONFIG_FILE: "a folder that save_pretrained wrote has one",
    BUNDLE_FILE: "vit-hybrid export writes one",
    PREPROCESSOR_FILE: "it says how pictures are resized and normalized, and "
    "ViTHybridImageProcessor(...).save_pretrained writes it",
}


class ModelLoadError(ValueError):
    """A model that cannot be loaded; the message is one line that names it and says why."""


class FileMissing(ModelLoadError):
    """A model that is there, without one of its files."""


def needing_code(error: BaseException) -> str | None:
    """What to say of a file of weights that torch refused with `error` since it would run code; None if it did not."""
    text = str(error)
    found = _FOREIGN_OBJECT.search(text)
    if found is not None:
        what = f"holds a {found[1]} object"
    elif _PROGRAM in text:
        what = "is a TorchScript program"
    elif _FOREIGN_PICKLE in text:
        what = "is a pickle of Python objects"
    else:
        return None
    return (
        f"{what}, which takes code to load, and only tensors are read here (files that need code to be read are "
        "refused); save its state_dict() where it was made"
    )


def local_path(name: str, location: str, file: str) -> Path:
    """Where `file` of the model at `location`, a folder or a hub id, is on this machine.

    Raises:
        ModelLoadError: If there is no such file.
    """
    return _local_file(name, location, file) if os.path.isdir(location) else _hub_file(name, location, file)


def read_json(name: str, location: str, file: str) -> dict[str, Any]:
    """The fields in `file` of the model at `location`, a folder or a hub id.

    Raises:
        ModelLoadError: If there is no such file or it holds something else.
    """
    path = local_path(name, location, file)
    try:
        if (reason := unfetched(path)) is not None:
            raise ModelLoadError(f"{name}: its {file} {reason}.")
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ModelLoadError:
        raise
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{name}: cannot read its {file}: {one_line(error)}") from error
    if not isinstance(fields, dict):
        raise ModelLoadError(f"{name}: its {file} holds no fields.")
    return fields


def read_preprocessing(name: str, location: str) -> Preprocessing:
    """How the model at `location` wants its pictures.

    Raises:
        ModelLoadError: If the model does not say, or says what cannot be done.
    """
    try:
        return Preprocessing.from_dict(read_json(name, location, PREPROCESSOR_FILE))
    except ModelLoadError:
        raise
    except (TypeError, ValueError) as error:
        raise ModelLoadError(f"{name}: cannot use its {PREPROCESSOR_FILE}: {one_line(error)}") from error


def read_confidence(name: str, location: str, weights: Callable[[], str]) -> Confidence | None:
    """What `vit-hybrid calibrate` wrote for the model at `location`, a folder or a hub id; None where it wrote nothing,
    or the hub cannot be asked.

    Args:
        name: What messages call the model.
        location: Where it is.
        weights: Gives the SHA-256 of its weights.

    Raises:
        ModelLoadError: It is of other weights, or damaged.
    """
    path = found_path(location, CONFIDENCE_FILE)
    if path is None:
        return None
    arrays = found_path(location, ARRAYS_FILE)
    if arrays is None:
        raise ModelLoadError(f"{name}: there is {CONFIDENCE_FILE} without {ARRAYS_FILE}; calibrate it again.")
    try:
        if (reason := unfetched(path) or unfetched(arrays)) is not None:
            raise ModelLoadError(f"{name}: its {CONFIDENCE_FILE} or {ARRAYS_FILE} {reason}.")
        return read_files(path.parent, weights())
    except ConfidenceError as error:
        raise ModelLoadError(str(error)) from error


def read_card(location: str) -> str | None:
    """What the README.md of the model at `location` says, a folder or a hub id; None where it has none that can be
    read, or the model is a single file."""
    if os.path.isfile(location):
        return None
    path = found_path(location, CARD_FILE)
    try:
        return None if path is None else path.read_text(encoding="utf-8", errors="replace")[:MOST_OF_A_CARD] or None
    except OSError:
        return None


def check_model_type(name: str, fields: dict[str, Any]) -> None:
    """Raises `ModelLoadError` where a configuration's `fields` are another model's."""
    found = fields.get("model_type")
    if found != MODEL_TYPE:
        code = ", and it needs code of its own (auto_map), which is not run here" if "auto_map" in fields else ""
        raise ModelLoadError(f"{name}: its {CONFIG_FILE} says model_type {found!r}; expected {MODEL_TYPE!r}{code}.")


def weights_paths(location: str) -> list[Path]:
    """The files with the weights of the model at `location`, those that transformers would load; none if there are
    none, or the hub cannot be asked."""
    for file in WEIGHTS_FILES:
        path = found_path(location, file)
        if path is None:
            continue
        if not file.endswith(INDEX_SUFFIX):
            return [path]
        try:
            shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return [path]
        parts = [found_path(location, shard) for shard in shards]
        return [path, *(part for part in parts if part is not None)]
    return []


def safetensors_alone(paths: Sequence[Path]) -> list[Path] | None:
    """The files of weights among what `weights_paths` gives, without their index; None where there are none, or one is
    no safetensors."""
    files = [path for path in paths if not path.name.endswith(INDEX_SUFFIX)]
    return files if files and all(path.suffix == SAFETENSORS_SUFFIX for path in files) else None


def found_path(location: str, file: str) -> Path | None:
    """Where `file` of the model at `location`, a folder or a hub id, is on this machine; None where it has none, or the
    hub cannot be asked."""
    if os.path.isdir(location):
        path = Path(location, file)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(location, file))
    except (OSError, ValueError):  # huggingface_hub's errors are of these two
        return None


def _local_file(name: str, location: str, file: str) -> Path:
    path = Path(location, file)
    if not path.is_file():
        raise FileMissing(f"{name}: there is no {file} in this folder; {_PURPOSE[file]}.")
    return path


def _hub_file(name: str, repository: str, file: str) -> Path:
    # Not at the top: it takes a third of a second, and most models are in a folder.
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache

    try:
        return Path(hf_hub_download(repository, file))
    except (OSError, ValueError) as error:  # huggingface_hub's errors are of these two
        what = why_refused(error)
        # Out of reach, but the hub said so when it could be asked.
        if what == "file" or (what == "reach" and try_to_load_from_cache(repository, file) is _CACHED_NO_EXIST):
            raise FileMissing(f"{name}: there is no {file} in this model on the hub; {_PURPOSE[file]}.") from error
        instead = f"the model in the package is {BUILT_IN_MODEL!r}."
        reasons = {
            "id": f"there is no such file or folder here, and a hub id would look like owner/name; {instead}",
            "access": "the hub gives this model only to people it was granted to; log in.",
            "model": "there is no such file or folder here and no such model on the hub (or it is private: then log "
            f"in); {instead}",
            "reach": f"there is no such file or folder here, its {file} is not in the hub's cache on this machine, and "
            f"the hub cannot be reached or offline mode is on; {instead}",
        }
        if what not in reasons and not isinstance(error, OSError):
            raise
        reason = reasons.get(what, f"cannot get its {file} from the hub: {one_line(error)}")
        raise ModelLoadError(f"{name}: {reason}") from error


def why_refused(error: BaseException | None) -> str:
    """What is the matter where huggingface_hub raises this instead of giving a file.

    Returns:
        "id": it is no hub id, such as a path with several slashes. "access": it is given to some people alone.
        "revision", "model", "file": there is none of the name. "reach": the hub cannot be asked. "": something else.
    """
    from huggingface_hub import errors

    meanings = (  # some are kinds of those behind them
        (errors.HFValidationError, "id"),
        (errors.GatedRepoError, "access"),
        (errors.RevisionNotFoundError, "revision"),
        (errors.RepositoryNotFoundError, "model"),
        (errors.LocalEntryNotFoundError, "reach"),
        (errors.OfflineModeIsEnabled, "reach"),
        (errors.EntryNotFoundError, "file"),
    )
    return next((meaning for kind, meaning in meanings if isinstance(error, kind)), "")


__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "HUB_PREFIXES",
    "INDEX_SUFFIX",
    "JAX_SUFFIX",
    "PICKLED_SUFFIXES",
    "PREPROCESSOR_FILE",
    "TIMM_HUB_PREFIXES",
    "TIMM_SUFFIXES",
    "WEIGHTS_FILES",
    "FileMissing",
    "ModelLoadError",
    "check_model_type",
    "found_path",
    "local_path",
    "needing_code",
    "read_card",
    "read_confidence",
    "read_json",
    "read_preprocessing",
    "safetensors_alone",
    "weights_paths",
    "why_refused",
]
