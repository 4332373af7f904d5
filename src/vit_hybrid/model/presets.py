"""The published hybrids, a row for each, and the names by which their sources call them.

Imports only the standard library: a configuration that goes to the hub with its code takes this file along.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# What the parameter counts in the table stand for, and what a name that says nothing of either means.
DEFAULT_IMAGE_SIZE = 224
IMAGENET_LABELS = 1000
# ImageNet-21k as the authors count it, classes of the 2011 release with at least one picture.
IMAGENET_21K_LABELS = 21_843

# Output stride of BiT's root block; every stage behind the first halves the map once more.
ROOT_STRIDE = 4


@dataclass(frozen=True)
class Preset:
    """A published architecture.

    Attributes:
        name: As the papers spell it. The number behind the slash is theirs, and for R+Ti/16 it is not the stride.
        depths: Bottleneck blocks of each ResNet stage; none where the stem's map is read.
        patch_size: Side of a patch on the feature map.
        hidden_size: Width of the encoder's tokens.
        num_hidden_layers: Layers of the encoder.
        num_attention_heads: Attention heads of a layer.
        intermediate_size: Width of a layer's feed-forward part.
        jax: What the authors' `.npz` files of it are called (their stems start with it); None: never released.
        timm: timm's architecture without the image size; None: timm has none.
        parameters: Number of them, for 224 x 224 pixels and 1000 labels.
        gflops: 10^9 floating-point operations for one such image, two for each multiply-add.
    """

    name: str
    depths: tuple[int, ...]
    patch_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    jax: str | None
    timm: str | None
    parameters: int
    gflops: float

    @property
    def last_stage(self) -> str:
        """The backbone's name for the map that the encoder reads."""
        return f"stage{len(self.depths)}" if self.depths else "stem"

    @property
    def stride(self) -> int:
        """Pixels from one token to the next."""
        return int(ROOT_STRIDE * 2 ** max(0, len(self.depths) - 1) * self.patch_size)


# Dosovitskiy et al. (arXiv 2010.11929, table 6; by section 4.1 the last three blocks of R50 are a stage 4 in "/32" and
# lengthen stage 3 in "/16") and Steiner et al. (arXiv 2106.10270).
PRESETS = (
    # name, depths, patch, hidden, layers, heads, mlp, .npz, timm, parameters, GFLOP
    Preset("R+Ti/16", (), 8, 192, 12, 3, 768, "R_Ti_16", "vit_tiny_r_s16_p8", 6_337_704, 0.87),
    Preset("R26+S/32", (2, 2, 2, 2), 1, 384, 12, 6, 1536, "R26_S_32", "vit_small_r26_s32", 36_431_912, 6.93),
    Preset("R26+B/32", (2, 2, 2, 2), 1, 768, 12, 12, 3072, "R26+ViT-B_32", "vit_base_r26_s32", 101_383_976, 13.42),
    Preset("R50+B/16", (3, 4, 9), 1, 768, 12, 12, 3072, "R50+ViT-B_16", "vit_base_r50_s16", 98_659_112, 43.07),
    Preset("R50+B/32", (3, 4, 6, 3), 1, 768, 12, 12, 3072, None, None, 110_945_832, 16.92),
    Preset("R50+L/16", (3, 4, 9), 1, 1024, 24, 16, 4096, None, None, 316_483_624, 131.08),
    Preset("R50+L/32", (3, 4, 6, 3), 1, 1024, 24, 16, 4096, "R50_L_32", "vit_large_r50_s32", 328_994_856, 38.83),
)

# Labels by the tag behind the dot of timm's names; its R50+B/16 of the paper's pre-training comes without a head.
TIMM_TAGS = {
    "augreg_in21k": IMAGENET_21K_LABELS,
    "augreg_in21k_ft_in1k": IMAGENET_LABELS,
    "orig_in21k": 0,
    "orig_in21k_ft_in1k": IMAGENET_LABELS,
    "untrained": IMAGENET_LABELS,
}
TIMM_IMAGE_SIZES = (224, 384)
# What timm called some of them before it had tags, and still answers to.
OLD_TIMM_NAMES = {
    "vit_tiny_r_s16_p8_224_in21k": "vit_tiny_r_s16_p8_224.augreg_in21k",
    "vit_small_r26_s32_224_in21k": "vit_small_r26_s32_224.augreg_in21k",
    "vit_base_r50_s16_224_in21k": "vit_base_r50_s16_224.orig_in21k",
    "vit_base_resnet50_224_in21k": "vit_base_r50_s16_224.orig_in21k",
    "vit_base_resnet50_384": "vit_base_r50_s16_384.orig_in21k_ft_in1k",
    "vit_large_r50_s32_224_in21k": "vit_large_r50_s32_224.augreg_in21k",
}
# Where in the name of an .npz file its training begins.
_TRAINING = re.compile(r"-i\d+k|--|\.")
# timm's hybrids on its own ResNet-D and on MobileCLIP's stem: no weight standardization, other layers.
NOT_BIT = re.compile(r"vit_\w+_(?:resnet\d+d|mci)_\w+(?:\..*)?")

# The folder of the first paper's fine-tuned files, and the resolution of them all.
PAPER_FINE_TUNING, PAPER_FINE_TUNING_SIZE = "imagenet21k+imagenet2012", 384
# Labels by the data set that an .npz file's name, or folder, says it was trained on.
DATASET_LABELS = {
    "i21k": IMAGENET_21K_LABELS,
    "imagenet21k": IMAGENET_21K_LABELS,
    "i1k": IMAGENET_LABELS,
    "imagenet2012": IMAGENET_LABELS,
    PAPER_FINE_TUNING: IMAGENET_LABELS,
    "cifar10": 10,
    "cifar100": 100,
    "oxford_iiit_pet": 37,
    "oxford_flowers102": 102,
    "resisc45": 45,
}

# "R50+B/16", "R50+ViT-B_16", "imagenet21k/R50+ViT-B_16.npz", "R26_S_32-i21k-300ep-...--imagenet2012-...-res_384.npz"
_AUTHORS = re.compile(
    r"""(?:(?:gs:/|https://storage\.googleapis\.com)/vit_models/)?
        (?:(?:augreg|(?P<folder>imagenet21k(?:\+imagenet2012)?))/)?
        (?P<resnet>r\d*) [+_] (?:vit-)? (?P<width>[a-z]+) [/_] (?P<stride>\d+)
        (?:-(?P<upstream>i21k|i1k) (?:-[\w.]+)*? (?:--(?P<dataset>\w+) (?:-[\w.]+?)*? (?:-res_(?P<size>\d+))?)? )?
        (?:\.npz)?""",
    re.VERBOSE,
)
# "vit_small_r26_s32_224", "timm/vit_base_r50_s16_384.orig_in21k_ft_in1k"
_TIMM_PREFIX = re.compile(r"^(?:hf[-_]hub:)?timm/")
_TIMM = re.compile(r"(?P<architecture>vit_\w+?)(?:_(?P<size>\d+))?(?:\.(?P<tag>\w+))?")


class Named(NamedTuple):
    """What a name stands for: the row of the table, and what else the name says."""

    preset: Preset
    image_size: int
    num_labels: int


def resolve(name: str) -> Named:
    """The published hybrid of that name, in whichever spelling; upper and lower case are the same.

    Args:
        name: As the papers write it (`R50+B/16`, `R50+ViT-B/16`), as an `.npz` file is called (`R50+ViT-B_16`,
            `R26_S_32-i21k-...--imagenet2012-...-res_384`, with or without folders and `.npz`), or as timm calls it
            (`vit_small_r26_s32_224`, `timm/vit_base_r50_s16_384.orig_in21k_ft_in1k`).

    Returns:
        The row, and the image size and number of labels that the name says; 224 and 1000 where it says nothing.

    Raises:
        ValueError: If no published hybrid has that name; the message gives the nearest names.
    """
    wanted = "".join(name.split()).lower()
    as_timm = _TIMM_PREFIX.sub("", wanted)
    found = _as_authors_spell(wanted) or _as_timm_spells(as_timm)
    if found is not None:
        return found
    if NOT_BIT.fullmatch(as_timm):
        raise ValueError(
            f"{name!r} is a hybrid of timm's whose convolutional part is no BiT ResNet, so it cannot run here. The "
            f"published BiT hybrids are {_listed()}."
        )
    near = nearest(wanted)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"No published hybrid is called {name!r}. {hint}There are {_listed()}.")


def nearest(name: str, count: int = 3) -> list[str]:
    """Up to `count` known names that are most like `name`, the most alike first, one for each architecture."""
    spelled = {spelling.lower(): (spelling, preset.name) for preset in PRESETS for spelling in spellings(preset)}
    found: dict[str, str] = {}
    whole = name.lower()
    for part in (whole, _TRAINING.split(whole)[0]):
        for match in difflib.get_close_matches(part, spelled, n=len(spelled)):
            spelling, preset_name = spelled[match]
            found.setdefault(preset_name, spelling)
    return list(found.values())[:count]


def spellings(preset: Preset) -> Iterator[str]:
    """The names of `preset`, without what may follow them."""
    resnet, _, rest = preset.name.partition("+")
    width, _, stride = rest.partition("/")
    yield preset.name
    yield f"{resnet}+ViT-{width}/{stride}"
    yield f"{resnet}+ViT-{width}_{stride}"
    yield f"{resnet}_{width}_{stride}"
    if preset.timm is not None:
        yield preset.timm
        yield from (f"{preset.timm}_{size}" for size in TIMM_IMAGE_SIZES)


def _as_authors_spell(name: str) -> Named | None:
    match = _AUTHORS.fullmatch(name)
    preset = match and _PRESET_BY_NAME.get(f"{match['resnet']}+{match['width']}/{match['stride']}")
    if not match or not preset:
        return None
    trained_on = match["dataset"] or match["upstream"] or match["folder"]
    if trained_on is None:
        return Named(preset, DEFAULT_IMAGE_SIZE, IMAGENET_LABELS)
    if trained_on not in DATASET_LABELS:
        return None
    size = match["size"] or (PAPER_FINE_TUNING_SIZE if trained_on == PAPER_FINE_TUNING else DEFAULT_IMAGE_SIZE)
    return Named(preset, int(size), DATASET_LABELS[trained_on])


def _as_timm_spells(name: str) -> Named | None:
    match = _TIMM.fullmatch(OLD_TIMM_NAMES.get(name, name))
    preset = match and _PRESET_BY_TIMM.get(match["architecture"])
    if not match or not preset or (match["tag"] and match["tag"] not in TIMM_TAGS):
        return None
    size = int(match["size"] or DEFAULT_IMAGE_SIZE)
    if size not in TIMM_IMAGE_SIZES:
        return None
    return Named(preset, size, TIMM_TAGS[match["tag"]] if match["tag"] else IMAGENET_LABELS)


def _listed() -> str:
    *names, last = [preset.name for preset in PRESETS]
    return f"{', '.join(names)} and {last}, also as their .npz files and timm spell them"


_PRESET_BY_NAME = {preset.name.lower(): preset for preset in PRESETS}
_PRESET_BY_TIMM = {preset.timm: preset for preset in PRESETS if preset.timm is not None}

__all__ = ["PRESETS", "Named", "Preset", "nearest", "resolve", "spellings"]
