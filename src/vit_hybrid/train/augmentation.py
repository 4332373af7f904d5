"""Random changes to whole batches of training pictures, with kornia, beside the model and on its device.

No global random state is read or moved: what comes out is a function of what goes in and of the seed, so a resumed run
goes on as if it had not stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch.nn.functional import one_hot

from ..images.levels import MAX_8_BIT, RGB_CHANNELS
from ..images.preprocessing import RESCALE_FACTOR
from ..outputs.problems import PROBLEM_TYPES, REGRESSION, SINGLE_LABEL

if TYPE_CHECKING:
    from types import ModuleType

# --- RandAugment ------------------------------------------------------------------------------------------------------

# The magnitude at which an operation has the strength below, as in AutoAugment (Cubuk et al. 2019) and the code bases
# after it (AugReg, timm). Strength is proportional to the magnitude, and beyond 10 it goes on growing.
UNIT_MAGNITUDE = 10.0
MAX_MAGNITUDE = 30.0
# At the unit magnitude, after AutoAugment's table of ranges, in the form where no operation that has a strength does
# anything at magnitude 0:
ROTATION = math.radians(30)
SHEAR = 0.3  # pixels of one axis for each of the other
TRANSLATION = 0.45  # of the edge, as in timm; AutoAugment's 150 of 331 pixels
ENHANCEMENT = 0.9  # how far the factors of color, contrast, brightness and sharpness lie from 1
DROPPED_BITS = 4  # of 8
SOLARIZED = 1.0  # share of the range of levels, from the top, that is inverted
SOLARIZE_ADDITION = 110 / MAX_8_BIT  # to the levels below the middle
MIDDLE_LEVEL = 128 / MAX_8_BIT
# Where growing ends, because nothing would be left of the picture.
MIN_FACTOR = 0.1
MIN_BITS = 1
LEVEL_BITS = 8

# From levels (N, 3, H, W) of 0..1, and a sign of 1 or -1 (N,) for operations that have two directions, to levels.
Operation: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class RandAugment:
    """A few random operations, one after another, on each picture, all of one magnitude (Cubuk et al. 2020).

    Each picture draws its own operations out of fifteen, with replacement, as in the paper. Their arithmetic is
    kornia's, their choice is not: `kornia.augmentation.auto.RandAugment` draws once for all pictures of a batch, and
    its factors run from 0.1 over 1 to 1.9, so that in the middle of its magnitudes they change nothing.

    Args:
        layers: how many operations each picture goes through.
        magnitude: 0 to 30; 10 is the unit in which AugReg and timm count.
        fill: (3,), levels of 0..1 for what comes in at the borders when a picture is moved.

    Raises:
        ImportError: kornia is not installed.
        ValueError: `layers` or `magnitude` is out of its range.
    """

    def __init__(self, layers: int, magnitude: float, fill: torch.Tensor) -> None:
        if layers < 0:
            raise ValueError(f"randaugment_layers is {layers}: expected 0 or more")
        if not 0 <= magnitude <= MAX_MAGNITUDE:
            raise ValueError(f"randaugment_magnitude is {magnitude}: expected 0 to {MAX_MAGNITUDE:g}")
        self.layers = layers
        self.operations = _operations(magnitude / UNIT_MAGNITUDE, fill)

    def __call__(self, levels: torch.Tensor) -> torch.Tensor:
        """Augment a batch, drawing from torch's random state on the CPU.

        Args:
            levels: (N, 3, H, W), float32, 0 to 1; changed in place.

        Returns:
            `levels`.
        """
        count = len(levels)
        for _ in range(self.layers):
            choice = torch.randint(len(self.operations), (count,))
            signs = torch.randint(2, (count,)) * 2.0 - 1.0
            for index, operation in enumerate(self.operations.values()):
                chosen = (choice == index).nonzero().squeeze(1)
                if len(chosen):
                    here = chosen.to(levels.device)
                    levels[here] = operation(levels[here], signs[chosen].to(levels.device))
        return levels


def _operations(share: float, fill: torch.Tensor) -> dict[str, Operation]:
    """The fifteen operations of RandAugment, at `share` of the strengths above."""
    kornia = _kornia()
    enhance = kornia.enhance

    def warped(
        levels: torch.Tensor, linear: Sequence[torch.Tensor], right: torch.Tensor, down: torch.Tensor
    ) -> torch.Tensor:
        """Moves pixels about the middle by a matrix (its four entries, row by row), then by shares of the edges."""
        height, width = levels.shape[-2:]
        matrix = torch.stack(list(linear), dim=1).view(-1, 2, 2)
        middle = matrix.new_tensor([(width - 1) / 2, (height - 1) / 2])
        offset = middle - matrix @ middle + torch.stack([right * width, down * height], dim=1)
        affine = torch.cat([matrix, offset[:, :, None]], dim=2)
        return kornia.geometry.transform.warp_affine(
            levels, affine, (height, width), padding_mode="fill", fill_value=fill.to(levels.device)
        )

    def rotate(levels: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        zero, angle = torch.zeros_like(signs), signs * (ROTATION * share)
        return warped(levels, (angle.cos(), -angle.sin(), angle.sin(), angle.cos()), zero, zero)

    def shear_x(levels: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        one, zero = torch.ones_like(signs), torch.zeros_like(signs)
        return warped(levels, (one, signs * (SHEAR * share), zero, one), zero, zero)

    def shear_y(levels: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        one, zero = torch.ones_like(signs), torch.zeros_like(signs)
        return warped(levels, (one, zero, signs * (SHEAR * share), one), zero, zero)

    def translate_x(levels: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        one, zero = torch.ones_like(signs), torch.zeros_like(signs)
        return warped(levels, (one, zero, zero, one), signs * (TRANSLATION * share), zero)

    def translate_y(levels: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        one, zero = torch.ones_like(signs), torch.zeros_like(signs)
        return warped(levels, (one, zero, zero, one), zero, signs * (TRANSLATION * share))

    def auto_contrast(levels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        # A channel of one level has no contrast to stretch, and kornia would make it black.
        even = levels.amin((2, 3), keepdim=True) == levels.amax((2, 3), keepdim=True)
        return torch.where(even, levels, enhance.normalize_min_max(levels).clamp(0, 1))

    def equalize(levels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return enhance.equalize(levels)

    def invert(levels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return 1 - levels

    def posterize(levels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return enhance.posterize(levels, max(LEVEL_BITS - round(DROPPED_BITS * share), MIN_BITS))

    def solarize(levels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        # No level lies beyond 1, so that a strength of 0 inverts none.
        threshold = max(1 - SOLARIZED * share, 0.0)
        return torch.where(levels <= threshold, levels, 1 - levels) if threshold else 1 - levels

    def solarize_add(levels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        brighter = (levels + SOLARIZE_ADDITION * share).clamp(max=1)
        return torch.where(levels < MIDDLE_LEVEL, brighter, levels)

    def factors(signs: torch.Tensor) -> torch.Tensor:
        return (1 + signs * (ENHANCEMENT * share)).clamp(min=MIN_FACTOR)

    def color(levels: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        return enhance.adjust_saturation_with_gray_subtraction(levels, factors(signs))

    def contrast(levels: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        return enhance.adjust_contrast_with_mean_subtraction(levels, factors(signs))

    def brightness(levels: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        return enhance.adjust_brightness_accumulative(levels, factors(signs))

    def sharpness(levels: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        return enhance.sharpness(levels, factors(signs))

    return {
        operation.__name__: operation
        for operation in (
            auto_contrast,
            equalize,
            invert,
            rotate,
            posterize,
            solarize,
            solarize_add,
            color,
            contrast,
            brightness,
            sharpness,
            shear_x,
            shear_y,
            translate_x,
            translate_y,
        )
    }


# --- A batch ----------------------------------------------------------------------------------------------------------

# How bright red, green and blue are (ITU-R BT.601), as Pillow turns pictures to gray.
LUMA = (0.299, 0.587, 0.114)
# Of the erased rectangle, height to width (Zhong et al. 2020); the share of the area is given by `erase_scale`.
ERASE_RATIO = (0.3, 1 / 0.3)


class BatchAugmentation:
    """What happens to a batch on the model's device: colors, RandAugment, normalizing, erasing, mixing, in this order.

    With everything off, which is the default, only normalizing is left, and kornia is not needed.

    Args:
        mean: of the rescaled levels, one for all channels or one for each, as `image_mean` of the preprocessing.
        std: standard deviation of the rescaled levels, likewise.
        num_labels: how many labels (or values, in regression) the model has.
        problem_type: what targets are, one of transformers' three words.
        color: how far each picture's brightness, contrast and saturation are changed at most: by factors, drawn one by
            one, from 1 - color to 1 + color.
        randaugment_layers: how many operations of `RandAugment` each picture goes through.
        randaugment_magnitude: their strength, 0 to 30.
        erase: probability that a rectangle of a picture is set to the mean (Zhong et al. 2020).
        erase_scale: smallest and largest share of the area that is erased.
        mixup: alpha of mixup (Zhang et al. 2018): each picture is blended with another by a weight from
            Beta(alpha, alpha); 0 for off.
        cutmix: alpha of CutMix (Yun et al. 2019): a rectangle of each picture, of a share of the area from
            Beta(alpha, alpha), comes from another; 0 for off. With both on, a fair coin decides for each batch.
        mix_probability: share of the batches that are mixed.
        rescale_factor: what levels of 0..255 are multiplied by.

    Attributes:
        mixes: whether batches can come out mixed, with targets that are shares.

    Raises:
        ImportError: kornia is not installed and something that needs it is on.
        ValueError: a value out of its range; colors or RandAugment with a number of channels other than three, so far
            as `mean` and `std` tell it; CutMix for regression.
    """

    def __init__(
        self,
        *,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        num_labels: int,
        problem_type: str,
        color: float = 0.0,
        randaugment_layers: int = 0,
        randaugment_magnitude: float = UNIT_MAGNITUDE,
        erase: float = 0.0,
        erase_scale: tuple[float, float] = (0.02, 1 / 3),
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
        rescale_factor: float = RESCALE_FACTOR,
    ) -> None:
        if problem_type not in PROBLEM_TYPES:
            raise ValueError(f"problem_type is {problem_type!r}: expected one of {', '.join(PROBLEM_TYPES)}")
        if num_labels < 1:
            raise ValueError(f"num_labels is {num_labels}: expected 1 or more")
        if not 0 <= color < 1:
            raise ValueError(f"color is {color}: expected 0 for off, or how far factors lie from 1, less than 1")
        for name, probability in (("erase", erase), ("mix_probability", mix_probability)):
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} is {probability}: expected a probability, 0 to 1")
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= alpha < math.inf:
                raise ValueError(f"{name} is {alpha}: expected the alpha of a Beta distribution, or 0 for off")
        if not (len(erase_scale) == 2 and 0 < erase_scale[0] <= erase_scale[1] <= 1):
            raise ValueError(
                f"erase_scale is {erase_scale}: expected two shares of the area, ascending, above 0, up to 1"
            )
        if cutmix and problem_type == REGRESSION:
            raise ValueError(
                "cutmix is for labels: what value a picture has with a part of another is unknown; use mixup"
            )
        self.num_labels, self.problem_type, self.mix_probability = num_labels, problem_type, mix_probability
        self._mean, self._std = _statistics(mean, "mean"), _statistics(std, "std")
        if not (self._std > 0).all():
            raise ValueError(f"std is {std}: expected values above 0")
        # RandAugment counts levels from 0 to 1, whatever the model's input counts in.
        self._scale = rescale_factor * MAX_8_BIT
        self._color = color
        self._rand_augment = self._erasing = None
        self._what_needs_rgb = "RandAugment" if randaugment_layers else "color" if color else None
        for name, values in (("mean", self._mean), ("std", self._std)):
            if self._what_needs_rgb and len(values) not in (1, RGB_CHANNELS):
                raise ValueError(
                    f"{self._what_needs_rgb} needs RGB pictures, but {name} has {len(values)} channels; turn it off"
                )
        if randaugment_layers:
            fill = (self._mean / self._scale).clamp(0, 1).expand(RGB_CHANNELS, 1, 1).reshape(-1)
            self._rand_augment = RandAugment(randaugment_layers, randaugment_magnitude, fill)
        if erase:
            self._erasing = _kornia().augmentation.RandomErasing(erase_scale, ERASE_RATIO, value=0.0, p=erase)
        self._mixers: list[Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = []
        if mixup:
            self._mixers.append(_mixup(mixup))
        if cutmix:
            self._mixers.append(_cutmix(cutmix))

    @property
    def mixes(self) -> bool:
        return bool(self._mixers) and self.mix_probability > 0

    @torch.no_grad()
    def __call__(
        self, pixels: torch.Tensor, targets: torch.Tensor, seed: int, mix: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment one batch.

        Args:
            pixels: (N, C, H, W), uint8; not changed.
            targets: (N,) indices of labels, (N, labels) shares of them, or (N,) or (N, values) numbers.
            seed: all that randomness depends on; torch's own random state is left as it was.
            mix: whether mixup and CutMix may happen, where they are on.

        Returns:
            Pixel values (N, C, H, W), float32, normalized; and the targets as they came or, where pictures were mixed,
            mixed likewise: (N, labels), or the shape of the numbers, float32.

        Raises:
            ValueError: pixels of another type or shape, or of a number of channels that does not fit.
        """
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise ValueError(f"pixels are {pixels.dtype} {tuple(pixels.shape)}: expected torch.uint8 (N, C, H, W)")
        if len(targets) != len(pixels):
            raise ValueError(f"there are {len(targets)} targets for {len(pixels)} pictures")
        channels = pixels.shape[1]
        for name, values in (("mean", self._mean), ("std", self._std)):
            if len(values) not in (1, channels):
                raise ValueError(f"pictures of {channels} channels do not fit {len(values)} values of {name}")
        # Autocast would compute the levels in half precision. Kornia takes no generator and draws on the CPU whatever
        # device the pictures are on, so other devices' states need not be saved; `torch.manual_seed` would change them.
        with torch.random.fork_rng(devices=[]), torch.autocast(pixels.device.type, enabled=False):
            torch.default_generator.manual_seed(seed)
            levels = pixels.float().div_(MAX_8_BIT)
            if self._what_needs_rgb and channels != RGB_CHANNELS:
                raise ValueError(
                    f"{self._what_needs_rgb} needs RGB pictures, but these have {channels} channels; turn it off"
                )
            if self._color:
                levels = _recolored(levels, self._color)
            if self._rand_augment:
                levels = self._rand_augment(levels)
            if not math.isclose(self._scale, 1):
                levels.mul_(self._scale)
            values = levels.sub_(self._mean.to(levels.device)).div_(self._std.to(levels.device))
            if self._erasing:
                values = self._erasing(values)
            if mix and self.mixes and torch.rand(()) < self.mix_probability:
                mixer = self._mixers[int(torch.randint(len(self._mixers), ()))]
                values, partners, shares = mixer(values)
                targets = self._mixed(targets, partners.to(targets.device), shares.to(targets.device))
        return values, targets

    def _mixed(self, targets: torch.Tensor, partners: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        if self.problem_type == SINGLE_LABEL and targets.ndim == 1:
            targets = one_hot(targets, self.num_labels)
        rows = targets.float()
        return rows.lerp(rows[partners], shares.view(-1, *[1] * (rows.ndim - 1)))


def _recolored(levels: torch.Tensor, strength: float) -> torch.Tensor:
    """Levels (N, 3, H, W) of 0..1 with other brightness, contrast and saturation, drawn for each picture."""
    brightness, contrast, saturation = (1 + strength * (2 * torch.rand(3, len(levels)) - 1)).to(levels.device)
    gray = levels.new_tensor(LUMA)
    # All three are linear: saturation about each pixel's gray, contrast about the picture's mean gray.
    matrix = torch.lerp(gray.expand(3, 3), torch.eye(3, device=levels.device), saturation.view(-1, 1, 1))
    middle = levels.mean((2, 3)) @ gray
    shift = (1 - contrast) * brightness * middle
    pixels = torch.baddbmm(shift.view(-1, 1, 1), matrix * (brightness * contrast).view(-1, 1, 1), levels.flatten(2))
    return pixels.view_as(levels).clamp_(0, 1)


def _mixup(alpha: float) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """From pictures to mixed ones, the partner of each (N,), and the partner's share of it (N,)."""
    mix = _kornia().augmentation.RandomMixUpV2()
    weights = torch.distributions.Beta(alpha, alpha)

    def mixer(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parameters = mix.forward_parameters(values.shape)
        parameters["mixup_lambdas"] = weights.sample((len(values),))  # kornia's own are uniform
        return mix(values, params=parameters), parameters["mixup_pairs"], parameters["mixup_lambdas"]

    return mixer


def _cutmix(alpha: float) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """From pictures to mixed ones, the partner of each (N,), and the partner's share of its area (N,)."""
    kornia = _kornia()
    mix = kornia.augmentation.RandomCutMixV2(beta=alpha, use_correct_lambda=True)

    def mixer(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parameters = mix.forward_parameters(values.shape)
        partners, boxes = parameters["mix_pairs"][0], parameters["crop_src"][0].to(values.device)
        pasted = kornia.geometry.bbox.bbox_to_mask(boxes, values.shape[-1], values.shape[-2]) > 0
        # Where kornia's own step collects the pixels of all boxes, this is several times faster.
        mixed = torch.where(pasted[:, None], values[partners.to(values.device)], values)
        return mixed, partners, pasted.float().mean((1, 2))

    return mixer


def _statistics(values: float | Sequence[float], name: str) -> torch.Tensor:
    """(C, 1, 1), or (1, 1, 1) for all channels."""
    statistics = torch.as_tensor(values, dtype=torch.float32)
    if statistics.ndim > 1 or not statistics.numel():
        raise ValueError(f"{name} is {values}: expected one number for all channels or one for each")
    return statistics.reshape(-1, 1, 1)


def _kornia() -> ModuleType:
    try:
        import kornia
        import kornia.augmentation
    except ImportError as error:
        raise ImportError(
            "RandAugment, erase, mixup and cutmix need kornia: pip install 'vit-hybrid[train]'"
        ) from error
    return kornia


__all__ = ["BatchAugmentation", "RandAugment"]
