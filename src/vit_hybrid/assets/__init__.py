"""The model that ships in the package: this folder is laid out as `save_pretrained` lays out any other."""

from pathlib import Path

# The name that stands for the model in this folder wherever a model is asked for; it wins over a folder of that name,
# which `./vit-hybrid-cifar10` still reaches.
BUILT_IN_MODEL = "vit-hybrid-cifar10"
BUILT_IN_FOLDER = Path(__file__).parent

__all__ = ["BUILT_IN_FOLDER", "BUILT_IN_MODEL"]
