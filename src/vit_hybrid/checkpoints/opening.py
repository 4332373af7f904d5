"""The door: what a name of a model may mean, and the model behind it, each part read when it is asked for.

In this order a name is: an existing path; with a prefix (`timm/`, `hf-hub:`, `hf_hub:`) a model of timm's on the hub;
with an ending of weights a file, which then has to exist; the model in the package; a published architecture, where the
caller allows random weights; else a model on the hub. Importing this, and opening a folder of this package or a bundle,
loads neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..assets import BUILT_IN_FOLDER, BUILT_IN_MODEL
from ..errors import EngineWarning, one_line
from ..files import checksum
from ..images.preprocessing import Preprocessing
from ..model.presets import NOT_BIT, resolve
from ..registration import MODEL_TYPE
from ..runtimes import BUNDLE_FILE
from . import published
from .files import (
    CONFIG_FILE,
    JAX_SUFFIX,
    PICKLED_SUFFIXES,
    PREPROCESSOR_FILE,
    TIMM_HUB_PREFIXES,
    TIMM_SUFFIXES,
    WEIGHTS_FILES,
    FileMissing,
    ModelLoadError,
    check_model_type,
    local_path,
    read_json,
    read_preprocessing,
    weights_paths,
)

if TYPE_CHECKING:
    import torch

    from ..images.image_processing import ViTHybridImageProcessor
    from ..model.configuration import ViTHybridConfig
    from ..model.modeling import ViTHybridForImageClassification

Kind: TypeAlias = Literal["own", "jax", "timm", "bundle", "preset"]
# Called with (arrays done, arrays in all).
Progress: TypeAlias = Callable[[int, int], None]

OWNED_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
EXPECTED = (
    f"expected a model folder, a hub id, {BUILT_IN_MODEL!r}, or a file that ends in {JAX_SUFFIX} (JAX) or "
    f"{', '.join(TIMM_SUFFIXES)} (timm)"
)


class Source:
    """A model, and where it is. Nothing but its configuration's fields has been read yet.

    Attributes:
        kind: "own" for a folder that `save_pretrained` wrote or a model on the hub, "jax" for an `.npz` file, "timm"
            for a file, folder or hub id of timm's, "bundle" for an exported model, "preset" for a published
            architecture, of which there are only random weights.
        name: What messages call it.
        location: The file, the folder or the hub id; a preset's name.
    """

    kind: Kind

    def __init__(self, name: str, location: str) -> None:
        self.name, self.location = name, location

    @property
    def config(self) -> ViTHybridConfig:
        """The model's configuration, one's own to change; no weights are read, but of a model of timm's on the hub
        that its name does not describe.

        Raises:
            ModelLoadError: It cannot be used.
            OSError: A file cannot be read.
        """
        raise NotImplementedError

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How the model wants its pictures; None where nothing says it.

        Raises:
            ModelLoadError: What it says cannot be done.
        """
        raise NotImplementedError

    def processor(self, image_size: tuple[int, int] | None = None) -> ViTHybridImageProcessor:
        """`preprocessing` as an image processor; where nothing says it the published hybrids', with an `EngineWarning`.

        Args:
            image_size: (height, width) in pixels, if it is not to be the model's; what is cut off keeps its share.

        Raises:
            ModelLoadError: What the model says cannot be done.
        """
        raise NotImplementedError

    def classifier(
        self,
        image_size: tuple[int, int] | None = None,
        num_labels: int | None = None,
        dtype: torch.dtype | str = "auto",
        progress: Progress | None = None,
    ) -> ViTHybridForImageClassification:
        """The model with its weights, on the CPU and in evaluation mode.

        Args:
            image_size: (height, width) in pixels; position embeddings are resized as the source's own code does.
            num_labels: Labels of a new classifier, all zero, with which the source need not have one; None keeps the
                source's.
            dtype: What the weights are to be in; "auto" is as they were saved.
            progress: Called with (arrays done, arrays in all) while a JAX file is read.

        Raises:
            ModelLoadError: The source is no model that can be used, or has no weights that PyTorch could load.
            ValueError: No model can run at `image_size`.
            OSError: A file cannot be read.
        """
        raise NotImplementedError

    def provenance(self) -> dict[str, str]:
        """The model's name without folders, and the checksums of its weights and of its configuration.

        Raises:
            ModelLoadError: There are no weights.
            OSError: A file cannot be read.
        """
        raise NotImplementedError


class _Own(Source):
    """A folder that `save_pretrained` wrote, or what was uploaded from one."""

    kind = "own"

    def __init__(self, name: str, location: str, fields: Mapping[str, Any]) -> None:
        super().__init__(name, location)
        self._fields = fields

    @property
    def config(self) -> ViTHybridConfig:
        from ..model.configuration import ViTHybridConfig

        try:
            return ViTHybridConfig.from_dict(json.loads(json.dumps(self._fields)))  # which takes fields out of it
        except Exception as error:  # foreign files fail in as many ways as they have readers
            raise ModelLoadError(f"{self.name}: cannot use its {CONFIG_FILE}: {one_line(error)}") from error

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        try:
            return read_preprocessing(self.name, self.location)
        except FileMissing:
            return None

    def processor(self, image_size: tuple[int, int] | None = None) -> ViTHybridImageProcessor:
        from ..images.image_processing import ViTHybridImageProcessor
        from ..model.geometry import as_pair

        before = as_pair(self.config.image_size)
        if self.preprocessing is None:
            published.warn_of_stand_in(self.name)
            return published.processor(image_size or before, self.config.num_channels)
        saved = ViTHybridImageProcessor.from_dict(read_json(self.name, self.location, PREPROCESSOR_FILE))
        return _resized(saved, before, image_size or before)

    def classifier(
        self,
        image_size: tuple[int, int] | None = None,
        num_labels: int | None = None,
        dtype: torch.dtype | str = "auto",
        progress: Progress | None = None,
    ) -> ViTHybridForImageClassification:
        from .adapting import adapt
        from .own import load_model

        # A classifier that is to be replaced need not even be there.
        model = load_model(self.name, self.location, dtype, None if num_labels is None else 0)
        return adapt(model, image_size, num_labels, positions="bicubic", antialias=True)

    def provenance(self) -> dict[str, str]:
        paths = weights_paths(self.location)
        return _provenance(self.name, paths, local_path(self.name, self.location, CONFIG_FILE).read_bytes())


class _Jax(Source):
    """A file of the authors' JAX code, which says everything but labels and is called what it is."""

    kind = "jax"

    @property
    def config(self) -> ViTHybridConfig:
        from . import jax

        return jax.read_config(self.location)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_dict(self.processor().to_dict())

    def processor(self, image_size: tuple[int, int] | None = None) -> ViTHybridImageProcessor:
        from . import jax

        return jax.image_processor(self.location, image_size)

    def classifier(
        self,
        image_size: tuple[int, int] | None = None,
        num_labels: int | None = None,
        dtype: torch.dtype | str = "auto",
        progress: Progress | None = None,
    ) -> ViTHybridForImageClassification:
        from . import jax

        return _in_dtype(jax.load(self.location, image_size, num_labels, progress=progress), dtype)

    def provenance(self) -> dict[str, str]:
        return _provenance(self.name, [Path(self.location)], b"")


class _Timm(Source):
    """A file, a folder or a hub id of timm's."""

    kind = "timm"

    @property
    def config(self) -> ViTHybridConfig:
        from ..model.configuration import ViTHybridConfig
        from . import timm

        if not os.path.exists(self.location):
            try:
                # Nobody who asks for a number expects a gigabyte, and these names say all there is.
                return ViTHybridConfig.from_preset(self.location, **timm.NUMERICS)
            except ValueError:
                pass
        return timm.read_config(self.location)

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        from . import timm

        try:
            return Preprocessing.from_dict(timm.image_processor(self.location).to_dict())
        except ValueError:
            return None

    def processor(self, image_size: tuple[int, int] | None = None) -> ViTHybridImageProcessor:
        from ..model.geometry import as_pair
        from . import timm

        try:
            return timm.image_processor(self.location, image_size)
        except ValueError as error:
            config = self.config
            published.warn_of_stand_in(self.name, str(error).removeprefix(f"{self.location}: "))
            return published.processor(image_size or as_pair(config.image_size), config.num_channels)

    def classifier(
        self,
        image_size: tuple[int, int] | None = None,
        num_labels: int | None = None,
        dtype: torch.dtype | str = "auto",
        progress: Progress | None = None,
    ) -> ViTHybridForImageClassification:
        from . import timm

        return _in_dtype(timm.load(self.location, image_size=image_size, num_labels=num_labels), dtype)

    def provenance(self) -> dict[str, str]:
        from .timm_files import located

        path, fields = located(self.location)
        return _provenance(self.name, [path], json.dumps(fields, sort_keys=True).encode())


class _Bundle(Source):
    """An exported model: a program for one engine."""

    kind = "bundle"

    @property
    def config(self) -> ViTHybridConfig:
        return _Own(self.name, self.location, read_json(self.name, self.location, CONFIG_FILE)).config

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        return _Own(self.name, self.location, {}).preprocessing

    def processor(self, image_size: tuple[int, int] | None = None) -> ViTHybridImageProcessor:
        fields = read_json(self.name, self.location, CONFIG_FILE)
        return _Own(self.name, self.location, fields).processor(image_size)

    def classifier(
        self,
        image_size: tuple[int, int] | None = None,
        num_labels: int | None = None,
        dtype: torch.dtype | str = "auto",
        progress: Progress | None = None,
    ) -> ViTHybridForImageClassification:
        raise ModelLoadError(
            f"{self.name}: this is a bundle, an exported program, and a bundle has no PyTorch model; give the model "
            "that it was exported from."
        )

    def provenance(self) -> dict[str, str]:
        said = read_json(self.name, self.location, BUNDLE_FILE).get("provenance") or {}
        return {name: str(said.get(name, "")) for name in ("model", "weights_sha256", "config_sha256")}


class _Preset(Source):
    """A published architecture by its name, with random weights."""

    kind = "preset"

    @property
    def config(self) -> ViTHybridConfig:
        from ..model.configuration import ViTHybridConfig

        return ViTHybridConfig.from_preset(self.location)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        return published.preprocessing(self._size(None))

    def processor(self, image_size: tuple[int, int] | None = None) -> ViTHybridImageProcessor:
        return published.processor(self._size(image_size))

    def classifier(
        self,
        image_size: tuple[int, int] | None = None,
        num_labels: int | None = None,
        dtype: torch.dtype | str = "auto",
        progress: Progress | None = None,
    ) -> ViTHybridForImageClassification:
        from ..model.configuration import ViTHybridConfig
        from ..model.modeling import ViTHybridForImageClassification

        config = ViTHybridConfig.from_preset(self.location, image_size=image_size, num_labels=num_labels)
        model = ViTHybridForImageClassification(config).eval()
        warnings.warn(
            EngineWarning(f"{self.name}: this names an architecture, so the weights are random"), stacklevel=2
        )
        return _in_dtype(model, dtype)

    def provenance(self) -> dict[str, str]:
        raise ModelLoadError(f"{self.name}: this names an architecture, whose random weights have no checksum.")

    def _size(self, image_size: tuple[int, int] | None) -> tuple[int, int]:
        side = resolve(self.location).image_size
        return image_size or (side, side)


def open(name: str | os.PathLike[str], *, random_weights: bool = False) -> Source:
    """What `name` leads to; of its files only the configuration's fields are read.

    Args:
        name: A folder that `save_pretrained` wrote, or `vit-hybrid export`; a `.npz` file of the JAX code; a file,
            folder or hub id of timm's; the model in the package; a hub id.
        random_weights: Whether a published architecture by any of its names will do as well.

    Raises:
        ModelLoadError: There is no such model; the message is the same whoever asks.
    """
    given = os.fspath(name)
    path = os.path.expanduser(given)
    if os.path.isdir(path):
        if os.path.isfile(os.path.join(path, BUNDLE_FILE)):
            return _Bundle(path, path)
        return _by_fields(path)
    if os.path.exists(path):
        return _of_file(path)
    if given.startswith(TIMM_HUB_PREFIXES):
        try:
            published.named_release(given)
        except ValueError as error:
            raise ModelLoadError(str(error)) from None
        return _Timm(given, given)
    if path.lower().endswith((JAX_SUFFIX, *TIMM_SUFFIXES)):
        raise ModelLoadError(_no_such_file(path))
    if given == BUILT_IN_MODEL:
        location = str(BUILT_IN_FOLDER)
        return _Own(given, location, read_json(given, location, CONFIG_FILE))
    if random_weights and is_preset(given):
        return _Preset(given, given)
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
        return _Timm(location, location)
    check_model_type(location, fields)
    return _Own(location, location, fields)


def _of_file(path: str) -> Source:
    suffix = os.path.splitext(path)[1].lower()
    if suffix == JAX_SUFFIX:
        return _Jax(path, path)
    folder, file = os.path.split(path)
    if file in WEIGHTS_FILES and os.path.isfile(os.path.join(folder, CONFIG_FILE)):
        fields = read_json(path, folder, CONFIG_FILE)
        if fields.get("model_type") == MODEL_TYPE:
            raise ModelLoadError(f"{path}: this is a file; {EXPECTED}: give the folder that it is in.")
    if suffix in (*TIMM_SUFFIXES, *PICKLED_SUFFIXES):
        return _Timm(path, path)
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


def _resized(
    processor: ViTHybridImageProcessor, before: tuple[int, int], after: tuple[int, int]
) -> ViTHybridImageProcessor:
    """The processor for images of another (height, width), whose border that the crop cuts off keeps its share."""
    if before == after:
        return processor
    share = {"height": after[0] / before[0], "width": after[1] / before[1], "shortest_edge": min(after) / min(before)}
    fields = processor.to_dict()
    size = {side: round(length * share[side]) for side, length in fields["size"].items()}
    crop = {"height": after[0], "width": after[1]}
    return type(processor)(**{**fields, "size": size, "crop_size": crop})


def _in_dtype(model: ViTHybridForImageClassification, dtype: torch.dtype | str) -> ViTHybridForImageClassification:
    if dtype == "auto":
        return model
    import torch

    return model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)


def _provenance(name: str, weights: list[Path], config: bytes) -> dict[str, str]:
    parts = [checksum(path) for path in weights]
    whole = parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()
    return {
        "model": Path(name).name,
        "weights_sha256": whole,
        "config_sha256": hashlib.sha256(config).hexdigest(),
    }


__all__ = ["Kind", "Source", "is_on_hub", "is_preset", "open"]
