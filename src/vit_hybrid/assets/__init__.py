"""The model that ships in the package: this folder is laid out as `save_pretrained` lays out any other."""

from pathlib import Path

# The name that stands for the model in this folder wherever a model is asked for, unless there is a file or folder of
# that name where the command runs.
BUILT_IN_MODEL = "vit-hybrid-cifar10"
BUILT_IN_FOLDER = Path(__file__).parent

__all__ = ["BUILT_IN_FOLDER", "BUILT_IN_MODEL"]
