"""The kinds of models there are, each with its parts read when they are asked for: what `opening.open` gives.

Importing this, and asking a folder of this package or a bundle for its preprocessing or provenance, loads neither torch
nor transformers.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..errors import EngineWarning, one_line
from ..files import checksum
from ..images.preprocessing import Preprocessing
from ..model.presets import resolve
from ..runtimes import BUNDLE_FILE
from . import published
from .files import (
    CONFIG_FILE,
    PREPROCESSOR_FILE,
    FileMissing,
    ModelLoadError,
    local_path,
    read_confidence,
    read_json,
    read_preprocessing,
    weights_paths,
)

if TYPE_CHECKING:
    import torch

    from ..images.image_processing import ViTHybridImageProcessor
    from ..model.configuration import ViTHybridConfig
    from ..model.feature_backbone import ViTHybridBackbone
    from ..model.modeling import ViTHybridForImageClassification
    from ..outputs.confidence import Confidence

Kind: TypeAlias = Literal["own", "jax", "timm", "dpt", "bundle", "preset"]
# Called with (arrays done, arrays in all).
Progress: TypeAlias = Callable[[int, int], None]


class Source:
    """A model, and where it is. Nothing but its configuration's fields has been read yet.

    Attributes:
        kind: "own" for a folder that `save_pretrained` wrote or a model on the hub, "jax" for an `.npz` file, "timm"
            for a file, folder or hub id of timm's, "dpt" for a DPT-hybrid of transformers, "bundle" for an exported
            model, "preset" for a published architecture, of which there are only random weights.
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

    def fields(self) -> Mapping[str, Any]:
        """The configuration's fields, as its `config.json` has them or would have them.

        Raises:
            ModelLoadError, OSError: As `config`.
        """
        return self.config.to_diff_dict()

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

    def backbone(
        self, image_size: tuple[int, int] | None = None, dtype: torch.dtype | str = "auto", **fields: Any
    ) -> ViTHybridBackbone:
        """The model as a backbone, on the CPU and in evaluation mode.

        Args:
            image_size, dtype: See `classifier`, which also says what is raised.
            **fields: `out_features`, `out_indices`, `reshape_hidden_states` of the backbone's configuration.
        """
        from ..model.feature_backbone import ViTHybridBackbone

        return ViTHybridBackbone.of(self.classifier(image_size, dtype=dtype), **fields)

    def provenance(self) -> dict[str, str]:
        """The model's name without folders, and the checksums of its weights and of its configuration.

        Raises:
            ModelLoadError: There are no weights.
            OSError: A file cannot be read.
        """
        raise NotImplementedError

    def confidence(self) -> Confidence | None:
        """What `vit-hybrid calibrate` wrote beside the weights; None where nothing lies there.

        Raises:
            ModelLoadError: It is of other weights, or damaged.
        """
        return None


class Own(Source):
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

    def fields(self) -> Mapping[str, Any]:
        return self._fields

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

    def backbone(
        self, image_size: tuple[int, int] | None = None, dtype: torch.dtype | str = "auto", **fields: Any
    ) -> ViTHybridBackbone:
        from .own import load_backbone

        return load_backbone(self.name, self.location, dtype, image_size, fields)

    def provenance(self) -> dict[str, str]:
        return {**self._checksums}

    @cached_property
    def _checksums(self) -> dict[str, str]:  # of gigabytes; its confidence and what is converted ask for them
        paths = weights_paths(self.location)
        return _provenance(self.name, paths, local_path(self.name, self.location, CONFIG_FILE).read_bytes())

    def confidence(self) -> Confidence | None:
        return read_confidence(self.name, self.location, lambda: self.provenance()["weights_sha256"])


class Jax(Source):
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


class Timm(Source):
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


class Dpt(Source):
    """A DPT-hybrid of transformers, whose encoder is a hybrid; a classifier it has none."""

    kind = "dpt"

    @property
    def config(self) -> ViTHybridConfig:
        from . import dpt

        return dpt.read_config(self.location)

    @property
    def preprocessing(self) -> Preprocessing | None:
        return None  # its own keeps a picture's shape, which a classifier's cannot

    def processor(self, image_size: tuple[int, int] | None = None) -> ViTHybridImageProcessor:
        from ..model.geometry import as_pair

        config = self.config
        published.warn_of_stand_in(self.name)
        return published.processor(image_size or as_pair(config.image_size), config.num_channels)

    def classifier(
        self,
        image_size: tuple[int, int] | None = None,
        num_labels: int | None = None,
        dtype: torch.dtype | str = "auto",
        progress: Progress | None = None,
    ) -> ViTHybridForImageClassification:
        from ..model.modeling import ViTHybridForImageClassification
        from . import dpt
        from .adapting import adapt

        if num_labels is None:
            raise ModelLoadError(
                f"{self.name}: this is a depth or segmentation model, which has no classifier; give the number of "
                "labels of a new one, to be trained."
            )
        vit = dpt.load(self.location, dtype)
        model = ViTHybridForImageClassification(vit.config).eval()
        model.vit = vit
        if image_size is not None:
            model.resize_position_embeddings(image_size, **dpt.POSITIONS)
        return adapt(model, num_labels=num_labels)

    def backbone(
        self, image_size: tuple[int, int] | None = None, dtype: torch.dtype | str = "auto", **fields: Any
    ) -> ViTHybridBackbone:
        from ..model.feature_backbone import ViTHybridBackbone
        from . import dpt

        vit = dpt.load(self.location, dtype)
        if image_size is not None:
            vit.resize_position_embeddings(image_size, **dpt.POSITIONS)
        return ViTHybridBackbone.of(vit, **fields)

    def provenance(self) -> dict[str, str]:
        config = local_path(self.name, self.location, CONFIG_FILE).read_bytes()
        return _provenance(self.name, weights_paths(self.location), config)


class Bundle(Source):
    """An exported model: a program for one engine."""

    kind = "bundle"

    @property
    def config(self) -> ViTHybridConfig:
        return Own(self.name, self.location, read_json(self.name, self.location, CONFIG_FILE)).config

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        return Own(self.name, self.location, {}).preprocessing

    def processor(self, image_size: tuple[int, int] | None = None) -> ViTHybridImageProcessor:
        fields = read_json(self.name, self.location, CONFIG_FILE)
        return Own(self.name, self.location, fields).processor(image_size)

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

    def confidence(self) -> Confidence | None:
        return read_confidence(self.name, self.location, lambda: self.provenance()["weights_sha256"])


class Preset(Source):
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


__all__ = ["Bundle", "Dpt", "Jax", "Kind", "Own", "Preset", "Progress", "Source", "Timm"]
