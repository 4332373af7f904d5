"""The files of a model in a folder or on the Hugging Face Hub, and what is wrong with them in one line.

Imports neither torch nor transformers: an exported model starts without them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..assets import BUILT_IN_FOLDER, BUILT_IN_MODEL
from ..errors import one_line
from ..images.preprocessing import Preprocessing
from ..registration import MODEL_TYPE

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
# In the order in which transformers looks for them.
WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INDEX_SUFFIX = ".index.json"

_PURPOSE = {
    CONFIG_FILE: "a folder that save_pretrained wrote has one",
    PREPROCESSOR_FILE: "it says how pictures are resized and normalized, and "
    "ViTHybridImageProcessor(...).save_pretrained writes it",
}


class ModelLoadError(ValueError):
    """A model that cannot be loaded; the message is one line that names it and says why."""


def locate(name: str | os.PathLike[str]) -> tuple[str, str]:
    """What to call a model, and the folder or hub id where it is: the built-in model's name stands for its folder."""
    name = os.path.expanduser(os.fspath(name))
    return name, str(BUILT_IN_FOLDER) if name == BUILT_IN_MODEL else name


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
        fields = json.loads(path.read_text(encoding="utf-8"))
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


def check_model_type(name: str, fields: dict[str, Any]) -> None:
    """Raises `ModelLoadError` where a configuration's `fields` are another model's."""
    found = fields.get("model_type")
    if found != MODEL_TYPE:
        raise ModelLoadError(f"{name}: its {CONFIG_FILE} says model_type {found!r}; expected {MODEL_TYPE!r}.")


def weights_paths(location: str) -> list[Path]:
    """The files with the weights of the model at `location`, those that transformers would load; none if there are
    none, or the hub cannot be asked."""
    for file in WEIGHTS_FILES:
        path = _found(location, file)
        if path is None:
            continue
        if not file.endswith(INDEX_SUFFIX):
            return [path]
        try:
            shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return []
        parts = [_found(location, shard) for shard in shards]
        return [path, *(part for part in parts if part is not None)]
    return []


def _found(location: str, file: str) -> Path | None:
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
        raise ModelLoadError(f"{name}: there is no {file} in this folder; {_PURPOSE[file]}.")
    return path


def _hub_file(name: str, repository: str, file: str) -> Path:
    if os.path.exists(name):
        raise ModelLoadError(f"{name}: this is a file; expected a model folder, a hub id or {BUILT_IN_MODEL!r}.")
    # Not at the top: it takes a third of a second, and most models are in a folder.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(repository, file))
    except HFValidationError as error:  # a path with several slashes, for one
        raise ModelLoadError(
            f"{name}: there is no such folder, and a hub id would look like owner/name; the model in the package is "
            f"{BUILT_IN_MODEL!r}."
        ) from error
    except GatedRepoError as error:
        raise ModelLoadError(f"{name}: the hub gives this model only to people it was granted to; log in.") from error
    except RepositoryNotFoundError as error:
        raise ModelLoadError(
            f"{name}: there is no such folder here and no such model on the hub (or it is private: then log in); the "
            f"model in the package is {BUILT_IN_MODEL!r}."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelLoadError(
            f"{name}: there is no such folder here, its {file} is not in the hub's cache on this machine, and the hub "
            f"cannot be reached or offline mode is on; the model in the package is {BUILT_IN_MODEL!r}."
        ) from error
    except EntryNotFoundError as error:
        raise ModelLoadError(f"{name}: there is no {file} in this model on the hub; {_PURPOSE[file]}.") from error
    except OSError as error:
        raise ModelLoadError(f"{name}: cannot get its {file} from the hub: {one_line(error)}") from error


__all__ = [
    "CONFIG_FILE",
    "PREPROCESSOR_FILE",
    "ModelLoadError",
    "check_model_type",
    "local_path",
    "locate",
    "read_json",
    "read_preprocessing",
    "weights_paths",
]
