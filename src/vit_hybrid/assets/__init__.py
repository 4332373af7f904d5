"""The model that ships in the package: this folder is laid out as `save_pretrained` lays out any other."""

from pathlib import Path

# The name that stands for the model in this folder wherever a model is asked for, unless there is a file or folder of
# that name where the command runs.
BUILT_IN_MODEL = "vit-hybrid-tiny-imagenet"
BUILT_IN_FOLDER = Path(__file__).parent

# Names of models that used to be in the package, and what to say to someone who asks for one.
RETIRED_MODELS = {
    "vit-hybrid-cifar10": f"this model is no longer in the package; {BUILT_IN_MODEL} takes its place, and the recipe "
    "from-scratch trains it anew",
}

__all__ = ["BUILT_IN_FOLDER", "BUILT_IN_MODEL", "RETIRED_MODELS"]
