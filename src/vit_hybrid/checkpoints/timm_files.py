"""Where timm's weights are kept: state dicts, files, folders and hub repositories, read and written.

Knows nothing of what the weights mean. `checkpoints.timm` does.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from huggingface_hub import hf_hub_download
from safetensors import safe_open
from safetensors.torch import save_file

from ..errors import one_line
from ..files import replacing, unfetched
from ..model.presets import OLD_TIMM_NAMES
from .files import (
    CONFIG_FILE,
    HUB_PREFIXES,
    JAX_SUFFIX,
    PICKLED_SUFFIXES,
    TIMM_SUFFIXES,
    needing_code,
    why_refused,
)
from .matching import CheckpointError, Shape

StateDict: TypeAlias = Mapping[str, torch.Tensor]
Source: TypeAlias = StateDict | str | os.PathLike[str]

# Looked for in this order, in folders and on the hub.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
SAFETENSORS, *PICKLED_BY_SAVE = TIMM_SUFFIXES
PICKLED = (*PICKLED_BY_SAVE, *PICKLED_SUFFIXES)
# Under which a file written here keeps what a folder's config.json would say.
METADATA_KEY = "vit_hybrid"
# Where training programs put the weights among other things, averaged ones first, and what they put before each name.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "model.", "timm_model.")

HUB_OWNER = "timm"
# What timm publishes on the hub; the first of an architecture is what its bare name means.
RELEASES = (
    "vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k",
    "vit_tiny_r_s16_p8_224.augreg_in21k",
    "vit_tiny_r_s16_p8_384.augreg_in21k_ft_in1k",
    "vit_small_r26_s32_224.augreg_in21k_ft_in1k",
    "vit_small_r26_s32_224.augreg_in21k",
    "vit_small_r26_s32_384.augreg_in21k_ft_in1k",
    "vit_base_r26_s32_224.untrained",
    "vit_base_r50_s16_224.orig_in21k",
    "vit_base_r50_s16_384.orig_in21k_ft_in1k",
    "vit_large_r50_s32_224.augreg_in21k_ft_in1k",
    "vit_large_r50_s32_224.augreg_in21k",
    "vit_large_r50_s32_384.augreg_in21k_ft_in1k",
)
UNTRAINED = ".untrained"


@dataclass(frozen=True)
class Checkpoint:
    """Weights under timm's names, where they are from, and what came with them.

    Attributes:
        origin: What the person who asked called them.
        weights: The tensors; on the meta device where only headers were read.
        fields: The content of timm's `config.json`, empty where there was none.
    """

    origin: str
    weights: StateDict
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: tuple(tensor.shape) for name, tensor in self.weights.items()}


def open_checkpoint(source: Source, headers_only: bool = False) -> Checkpoint:
    """The weights that `source` names, wrappers and prefixes taken off, and what its `config.json` says.

    Args:
        source: A state dict, a file, a folder or a hub id.
        headers_only: Whether names and shapes are enough.

    Raises:
        CheckpointError: If there is nothing readable; the message is for the person who gave the source.
        FileNotFoundError: If there is no such file.
    """
    if isinstance(source, Mapping):
        return Checkpoint("the state dict", _unwrapped(source, "the state dict"))
    origin = os.fspath(source)
    path, fields = located(source)
    content, kept = _read(path, origin, headers_only)
    return Checkpoint(origin, _unwrapped(content, origin), kept if path == Path(origin) and kept else fields)


def located(source: str | os.PathLike[str]) -> tuple[Path, Mapping[str, Any]]:
    """The file of weights on this machine, and what the `config.json` beside it says; empty where there is none.

    Raises:
        CheckpointError: If there is no such thing.
    """
    origin = os.fspath(source)
    if os.path.isdir(origin):
        folder = Path(origin)
        fields = _folder_fields(folder)  # first, since a damaged one is wrong whatever weights there are
        return _weights_in(folder), fields
    if os.path.exists(origin) or _looks_like_a_file(source):
        return Path(origin), _neighboring_fields(Path(origin))
    fields = _hub_fields(origin)
    return _hub_weights(origin), fields


def read_fields(source: str | os.PathLike[str]) -> Mapping[str, Any]:
    """What the `config.json` of a file, folder or hub id says, without the weights; empty where there is none.

    Raises:
        CheckpointError, FileNotFoundError: See `open_checkpoint`.
    """
    origin = os.fspath(source)
    if os.path.isdir(origin):
        return _folder_fields(Path(origin))
    if os.path.exists(origin) or _looks_like_a_file(source):
        _, kept = _read(Path(origin), origin, headers_only=True)
        return kept or _neighboring_fields(Path(origin))
    return _hub_fields(origin)


def is_file_name(path: Path) -> bool:
    """Whether `write` is to write a file of that name, and not a folder.

    Raises:
        ValueError: If the name ends like a file that is none of timm's.
    """
    if path.is_dir():
        return False
    if path.suffix.lower() in (SAFETENSORS, *PICKLED_BY_SAVE):
        return True
    if path.suffix:
        raise ValueError(
            f"{path}: weights for timm go into a file that ends in {', '.join((SAFETENSORS, *PICKLED_BY_SAVE))}, or "
            "into a folder; make the folder first if its name has a dot."
        )
    return False


def write(tensors: Mapping[str, torch.Tensor], fields: Mapping[str, Any], path: Path) -> None:
    """Writes a file, or a folder with a file and `config.json`; each is complete or not there.

    A file keeps `fields` where timm does not look, so that `open_checkpoint` finds them.
    """
    if is_file_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_file(tensors, fields, path)
        return
    path.mkdir(parents=True, exist_ok=True)
    _write_file(tensors, fields, path / WEIGHT_FILES[0])
    with replacing(path / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _write_file(tensors: Mapping[str, torch.Tensor], fields: Mapping[str, Any], path: Path) -> None:
    kept = json.dumps(fields)
    with replacing(path) as temporary:
        if path.suffix.lower() == SAFETENSORS:
            save_file(dict(tensors), temporary, metadata={"format": "pt", METADATA_KEY: kept})
            return
        state = OrderedDict(tensors)
        # Where `Module.state_dict` notes versions; `load_state_dict` passes over entries that it does not know.
        state._metadata = OrderedDict({"": {"version": 1, METADATA_KEY: kept}})  # type: ignore[attr-defined]
        torch.save(state, temporary)


def _looks_like_a_file(source: str | os.PathLike[str]) -> bool:
    """Whether something that is not there was meant as a file rather than as a hub id."""
    text = os.fspath(source)
    if not isinstance(source, str) or text.lower().endswith((SAFETENSORS, JAX_SUFFIX, *PICKLED)):
        return True
    return text.startswith((".", "~", os.sep)) or text.count("/") > 1


def _read(path: Path, origin: str, headers_only: bool) -> tuple[Any, Mapping[str, Any]]:
    """The content of a file of weights, and the fields that `write` kept in it."""
    if not path.exists():
        raise FileNotFoundError(f"{origin}: there is no such file or folder.")
    if path.suffix.lower() == JAX_SUFFIX:
        raise CheckpointError(
            origin, "this looks like a JAX checkpoint", advice="Load it with vit_hybrid.checkpoints.jax.load."
        )
    suffix = path.suffix.lower()
    if suffix not in (SAFETENSORS, *PICKLED):
        raise CheckpointError(
            origin, f"its name does not end like a file of weights: {', '.join((SAFETENSORS, *PICKLED))}"
        )
    if (reason := unfetched(path)) is not None:
        raise CheckpointError(origin, f"{'this' if path == Path(origin) else f'its {path.name}'} {reason}")
    try:
        if suffix == SAFETENSORS:
            return _read_safetensors(path, headers_only)
        # timm's training script puts its arguments beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="meta" if headers_only else "cpu", weights_only=True)
    except Exception as error:  # damaged files fail in as many ways as there are formats
        if (reason := needing_code(error)) is not None:
            raise CheckpointError(origin, f"the file {reason}") from error
        reason = one_line(error).partition(". ")[0]
        raise CheckpointError(
            origin,
            f"the file cannot be read ({reason.rstrip('.')})",
            advice="It may be damaged or incomplete: get it anew. Files that need code to be read are refused.",
        ) from error
    noted = getattr(content, "_metadata", {}).get("", {})
    return content, _json_fields(noted.get(METADATA_KEY), origin)


def _read_safetensors(path: Path, headers_only: bool) -> tuple[dict[str, torch.Tensor], Mapping[str, Any]]:
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        if headers_only:
            content = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}
        else:
            content = {name: file.get_tensor(name) for name in names}
        return content, _json_fields((file.metadata() or {}).get(METADATA_KEY), str(path))


def _json_fields(text: str | bytes | None, origin: str) -> Mapping[str, Any]:
    """A `config.json`'s content; nothing of it matters more to the message than that it is no such thing."""
    if text is None:
        return {}
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise CheckpointError(origin, f"its {CONFIG_FILE} is no JSON ({error})") from error
    if not isinstance(fields, dict):
        raise CheckpointError(origin, f"its {CONFIG_FILE} holds a {type(fields).__name__}, expected an object")
    return fields


def _folder_fields(folder: Path) -> Mapping[str, Any]:
    path = folder / CONFIG_FILE
    return _json_fields(path.read_bytes(), str(folder)) if path.is_file() else {}


def _neighboring_fields(path: Path) -> Mapping[str, Any]:
    """What the folder of a file says, if the file is the one that the folder is about."""
    return _folder_fields(path.parent) if path.name in WEIGHT_FILES else {}


def _weights_in(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    endings = (SAFETENSORS, *PICKLED)
    others = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in endings and path.is_file()]
    if len(others) == 1:
        return others[0]
    found = f"it has {', '.join(path.name for path in others)}" if others else "there is no file of weights"
    raise CheckpointError(
        folder, f"{found}; expected one of {', '.join(WEIGHT_FILES)}", advice="Give the file itself." if others else ""
    )


def _unwrapped(content: Any, origin: str) -> StateDict:
    """The weights alone, without what training programs put around them and before their names."""
    if not isinstance(content, Mapping):
        raise CheckpointError(origin, f"it holds a {type(content).__name__}; expected weights by their names")
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return _unwrapped(content[wrapper], origin)
    weights = {str(name): tensor for name, tensor in content.items()}
    strangers = [name for name, tensor in weights.items() if not isinstance(tensor, torch.Tensor)]
    if strangers:
        raise CheckpointError(
            origin,
            f"{strangers[0]!r} is a {type(weights[strangers[0]]).__name__} and no tensor",
            advice=f"Expected weights by their names, possibly under one of {', '.join(WRAPPERS)}.",
        )
    while prefix := next((p for p in PREFIXES if weights and all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _hub_repository(name: str) -> tuple[str, str | None]:
    """Repository and revision of a hub id, or of timm's name for something that it publishes there."""
    repository, _, revision = name.partition("@")
    for prefix in HUB_PREFIXES:
        repository = repository.removeprefix(prefix)
    if "/" not in repository:
        repository = f"{HUB_OWNER}/{repository}"
    owner, _, model = repository.partition("/")
    if owner == HUB_OWNER:
        model = OLD_TIMM_NAMES.get(model, model)
        # A bare architecture means its first release.
        model = next((release for release in RELEASES if release.startswith(f"{model}.")), model)
        if model.endswith(UNTRAINED):
            raise CheckpointError(name, "timm never published weights of this architecture")
    return f"{owner}/{model}", revision or None


def _hub_fields(name: str) -> Mapping[str, Any]:
    return _json_fields(_hub_file(name, CONFIG_FILE).read_bytes(), name)


def _hub_weights(name: str) -> Path:
    for file in WEIGHT_FILES:
        try:
            return _hub_file(name, file)
        except CheckpointError as error:
            if why_refused(error.__cause__) != "file" or file == WEIGHT_FILES[-1]:
                raise
    raise AssertionError("the loop returns or raises")


def _hub_file(name: str, file: str) -> Path:
    repository, revision = _hub_repository(name)
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except (OSError, ValueError) as error:  # huggingface_hub's errors are of these two
        what = why_refused(error)
        reasons = {
            "id": "there is no such file or folder, and a hub id would look like owner/name",
            "access": "the hub gives this model only to people it was granted to; log in",
            "revision": f"{repository} on the hub has no revision {revision!r}",
            "model": f"there is no such file or folder, and no {repository} on the hub (or it is private: then log in)",
            "reach": f"there is no such file or folder, {file} of {repository} is not in the hub's cache on this "
            "machine, and the hub cannot be reached or offline mode is on",
            "file": f"{repository} on the hub has no {file}",
        }
        if what not in reasons and not isinstance(error, OSError):
            raise
        reason = reasons.get(what, f"cannot get {file} from the hub ({one_line(error)})")
        advice = "Download the repository where there is a network, and give its folder." if what == "reach" else ""
        raise CheckpointError(name, reason, advice=advice) from error


__all__ = [
    "RELEASES",
    "Checkpoint",
    "Source",
    "StateDict",
    "is_file_name",
    "located",
    "open_checkpoint",
    "read_fields",
    "write",
]
