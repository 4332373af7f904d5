"""From a name to a classifier in PyTorch that can be explained: the model itself, or the twin of an exported one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..assets import BUILT_IN_MODEL
from ..checkpoints.files import ModelLoadError, found_path, weights_paths
from ..checkpoints.opening import Source, is_on_hub
from ..checkpoints.opening import open as open_source
from ..errors import shown
from .hybrid import Classifier, Hybrid
from .plain import from_files

if TYPE_CHECKING:
    import torch

    from ..model.modeling import ViTHybridForImageClassification

# Beside weights that PEFT's adapters are put into, which transformers then does.
ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True)
class Twin:
    """What is explained in an exported model's place.

    Attributes:
        model: Its name.
        precision: What the exported model computes in.
        engine: What runs that.
    """

    model: str
    precision: str
    engine: str

    def __str__(self) -> str:
        return (
            f"explained by its PyTorch twin {shown(self.model)} in float32; what runs is {self.precision} on "
            f"{self.engine}, and may weigh a little otherwise"
        )


def explainable(name: str) -> tuple[Source, Twin | None]:
    """The source of the model of that name, or that of its PyTorch twin, and which one that is.

    Raises:
        ModelLoadError: There is no such model, or it is a bundle and the model that it was exported from is not here.
    """
    source = open_source(name)
    if source.kind != "bundle":
        return source, None
    from ..bundles.manifest import read_bundle

    bundle = read_bundle(source.location, check_files=False)
    said = source.provenance()
    # Where the model may be that the bundle names: in the package, here, or beside the bundle.
    beside = os.path.join(os.path.dirname(os.path.abspath(source.location)), said["model"])
    for place in dict.fromkeys((BUILT_IN_MODEL, said["model"], beside)):
        twin = _with_weights(place, said["weights_sha256"])
        if twin is not None:
            return twin, Twin(twin.name, bundle.precision, bundle.engine)
    raise ModelLoadError(
        f"{shown(name)}: this is a bundle, an exported program, through which no gradient goes back, and the model "
        f"that it was exported from ({shown(said['model'])}, weights {said['weights_sha256'][:12]}) is neither here "
        "nor beside it; give that model, which is explained in its place."
    )


def _with_weights(name: str, checksum: str) -> Source | None:
    """The source of that name, if it is on this machine and has weights of that checksum."""
    if not name or (name != BUILT_IN_MODEL and not os.path.exists(name)) or is_on_hub(name):
        return None
    try:
        source = open_source(name)
        return source if source.kind != "bundle" and source.provenance()["weights_sha256"] == checksum else None
    except (ModelLoadError, OSError):
        return None


def opened(
    source: Source, image_size: tuple[int, int] | None, device: torch.device
) -> tuple[Hybrid, ModelLoadError | None]:
    """The classifier on that device; or the model without one, and why there is none.

    It is read by PyTorch alone where its files are plainly a hybrid's, and pictures have the size that they say.

    Raises:
        ModelLoadError: There is no model that can be used.
    """
    if source.kind == "own" and image_size is None and found_path(source.location, ADAPTER_FILE) is None:
        plain = from_files(source.fields(), weights_paths(source.location), device)
        if plain is not None:
            return plain, None
    model, why = classifier_of(source, image_size)
    return Classifier(model.to(device)), why


def classifier_of(
    source: Source, image_size: tuple[int, int] | None
) -> tuple[ViTHybridForImageClassification, ModelLoadError | None]:
    """The classifier, folded and in float32; or the model without one, and why there is none.

    Raises:
        ModelLoadError: There is no model that can be used.
    """
    try:
        model, why = source.classifier(image_size, dtype="float32"), None
    except ModelLoadError as error:
        try:
            model, why = source.classifier(image_size, num_labels=0, dtype="float32"), error
        except ModelLoadError:
            raise error from None
    return model.fold_weight_standardization(), why


__all__ = ["Twin", "classifier_of", "explainable", "opened"]
