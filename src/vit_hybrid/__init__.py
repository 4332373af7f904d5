"""The Hybrid Vision Transformer (a BiT ResNet whose feature map becomes the tokens of a ViT encoder) on transformers 5.

Importing this package costs almost nothing and loads neither torch nor transformers: the names below are imported on
first use. It does make transformers' Auto classes and pipelines know the model type `vit-hybrid`, whichever of the two
is imported first.
"""

# Before all others, `__future__` included: a person who has typed the command may press Ctrl-C while they are loaded.
from . import interrupt as _interrupt  # noqa: F401

# isort: split
from typing import TYPE_CHECKING

from .first_use import on_first_use as _on_first_use
from .registration import BACKBONE_FAMILY as _BACKBONE_FAMILY
from .registration import FAMILY as _FAMILY
from .registration import register as _register
from .registration import restore_transformers_names

if TYPE_CHECKING:
    from .explain.explainer import explain as explain
    from .images.image_processing import ViTHybridImageProcessor as ViTHybridImageProcessor
    from .inference.predictor import Predictor as Predictor
    from .model.configuration import ViTHybridConfig as ViTHybridConfig
    from .model.feature_backbone import ViTHybridBackbone as ViTHybridBackbone
    from .model.feature_configuration import ViTHybridBackboneConfig as ViTHybridBackboneConfig
    from .model.modeling import ViTHybridForImageClassification as ViTHybridForImageClassification
    from .model.modeling import ViTHybridModel as ViTHybridModel
    from .model.modeling import ViTHybridPreTrainedModel as ViTHybridPreTrainedModel
    from .predict.job import predict as predict

__version__ = "1.0.0"

# Public name -> the module that defines it; None for a module that is called.
_LAZY_NAMES = {**_FAMILY, **_BACKBONE_FAMILY, "Predictor": "inference.predictor", "explain": None, "predict": None}

__all__ = ["__version__", "restore_transformers_names", *_LAZY_NAMES]


__getattr__ = _on_first_use(__name__, _LAZY_NAMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_register()
