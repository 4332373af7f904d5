"""The door: what a name of a model may mean, and the model behind it.

In this order a name is: an existing path; with a prefix (`timm/`, `hf-hub:`, `hf_hub:`) a model of timm's on the hub;
with an ending of weights a file, which then has to exist; the model in the package; a published architecture, where the
caller allows random weights; else a model on the hub. Importing this, and opening a folder of this package or a bundle,
loads neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import os
import re

from ..assets import BUILT_IN_FOLDER, BUILT_IN_MODEL, RETIRED_MODELS
from ..model.presets import NOT_BIT, resolve
from ..registration import MODEL_TYPE
from ..runtimes import BUNDLE_FILE
from . import published
from .files import (
    CONFIG_FILE,
    JAX_SUFFIX,
    PICKLED_SUFFIXES,
    TIMM_HUB_PREFIXES,
    TIMM_SUFFIXES,
    WEIGHTS_FILES,
    ModelLoadError,
    check_model_type,
    read_json,
)
from .kinds import Bundle, Dpt, Jax, Own, Preset, Source, Timm

DPT_TYPE = "dpt"  # as transformers calls it
OWNED_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
EXPECTED = (
    f"expected a model folder, a hub id, {BUILT_IN_MODEL!r}, or a file that ends in {JAX_SUFFIX} (JAX) or "
    f"{', '.join(TIMM_SUFFIXES)} (timm)"
)


def open(name: str | os.PathLike[str], *, random_weights: bool = False) -> Source:
    """What `name` leads to; of its files only the configuration's fields are read.

    Args:
        name: A folder that `save_pretrained` wrote, or `vit-hybrid export`; a `.npz` file of the JAX code; a file,
            folder or hub id of timm's; a DPT-hybrid's folder or hub id; the model in the package; a hub id.
        random_weights: Whether a published architecture by any of its names will do as well.

    Raises:
        ModelLoadError: There is no such model; the message is the same whoever asks.
    """
    given = os.fspath(name)
    path = os.path.expanduser(given)
    if os.path.isdir(path):
        if os.path.isfile(os.path.join(path, BUNDLE_FILE)):
            return Bundle(path, path)
        return _by_fields(path)
    if os.path.isfile(path):
        return _of_file(path)
    if os.path.exists(path):
        raise ModelLoadError(f"{path}: this is a pipe, socket or device; {EXPECTED}.")
    if given.startswith(TIMM_HUB_PREFIXES):
        try:
            published.named_release(given)
        except ValueError as error:
            raise ModelLoadError(str(error)) from None
        return Timm(given, given)
    if path.lower().endswith((JAX_SUFFIX, *TIMM_SUFFIXES)):
        raise ModelLoadError(_no_such_file(path))
    if given == BUILT_IN_MODEL:
        location = str(BUILT_IN_FOLDER)
        return Own(given, location, read_json(given, location, CONFIG_FILE))
    if random_weights and is_preset(given):
        return Preset(given, given)
    if OWNED_HUB_ID.fullmatch(given):
        return _by_fields(given)
    raise ModelLoadError(_unknown(path))


def is_preset(name: str) -> bool:
    """Whether this is the name of a published architecture, and of nothing that comes before it in `open`'s order."""
    path = os.path.expanduser(name)
    if os.path.exists(path) or name == BUILT_IN_MODEL or name.startswith(TIMM_HUB_PREFIXES):
        return False
    return not path.lower().endswith((JAX_SUFFIX, *TIMM_SUFFIXES)) and _architecture(name) is not None


def is_on_hub(name: str) -> bool:
    """Whether `open` would ask the hub for it, not this machine."""
    path = os.path.expanduser(name)
    if os.path.exists(path) or name == BUILT_IN_MODEL:
        return False
    if name.startswith(TIMM_HUB_PREFIXES):
        return True
    return not path.lower().endswith((JAX_SUFFIX, *TIMM_SUFFIXES)) and OWNED_HUB_ID.fullmatch(name) is not None


def _architecture(name: str) -> str | None:
    """The published architecture of that name, as the papers spell it."""
    try:
        return resolve(name).preset.name
    except ValueError:
        return None


def _by_fields(location: str) -> Source:
    """What a folder or a repository on the hub is, by its configuration."""
    fields = read_json(location, location, CONFIG_FILE)
    if "architecture" in fields and fields.get("model_type") != MODEL_TYPE:  # transformers has it in the plural
        return Timm(location, location)
    if fields.get("model_type") == DPT_TYPE:
        return Dpt(location, location)
    check_model_type(location, fields)
    return Own(location, location, fields)


def _of_file(path: str) -> Source:
    suffix = os.path.splitext(path)[1].lower()
    if suffix == JAX_SUFFIX:
        return Jax(path, path)
    folder, file = os.path.split(path)
    if file in WEIGHTS_FILES and os.path.isfile(os.path.join(folder, CONFIG_FILE)):
        fields = read_json(path, folder or os.curdir, CONFIG_FILE)
        if fields.get("model_type") == MODEL_TYPE:
            raise ModelLoadError(f"{path}: this is a file; {EXPECTED}: give the folder that it is in.")
    if suffix in (*TIMM_SUFFIXES, *PICKLED_SUFFIXES):
        return Timm(path, path)
    raise ModelLoadError(f"{path}: this is a file; {EXPECTED}.")


def _no_such_file(path: str) -> str:
    """What to say of a file that is not there: what lies near it, and what else the name would mean."""
    folder, file = os.path.split(path)
    said = f"{path}: there is no such file"
    if folder and not os.path.isdir(folder):
        return f"{said}, nor the folder {folder}."
    names = [name for name in _names_in(folder) if name.lower().endswith((JAX_SUFFIX, *TIMM_SUFFIXES))]
    near = difflib.get_close_matches(file, names, n=1) or sorted(names)[:1]
    hint = f"; did you mean {os.path.join(folder, near[0])}?" if near else "."
    architecture = _architecture(path)
    if architecture is not None:
        hint += f" The architecture alone is called {architecture}."
    return said + hint


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")
    except OSError:
        return []


def _unknown(name: str) -> str:
    """What to say of a name that means nothing here, and that no model on the hub could have."""
    if name in RETIRED_MODELS:
        return f"{name}: {RETIRED_MODELS[name]}."
    said = f"{name}: there is no such file or folder here, and a hub id would look like owner/name"
    if is_preset(name):
        return (
            f"{said}; this names an architecture, which comes without weights: give a model that has some, such as "
            f"{BUILT_IN_MODEL!r}, the one in the package."
        )
    try:
        resolve(name)
    except ValueError as error:
        if NOT_BIT.fullmatch(name.lower()) or "Did you mean" in str(error):
            return f"{said}. {error}"
    return f"{said}; the model in the package is {BUILT_IN_MODEL!r}."


__all__ = ["Source", "is_on_hub", "is_preset", "open"]
