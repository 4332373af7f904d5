"""Pictures and arguments; scripts/record_legacy_image_processor.py records what transformers 4.49 makes of them.

Nothing here is random or needs transformers: both environments build the same pictures from the same formulas.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

RECORDED = Path(__file__).parent / "recorded" / "legacy" / "image_processor.npz"

SMALL = {"size": {"shortest_edge": 14}, "crop_size": {"height": 12, "width": 13}}
# Of large results every 13th row and column is recorded: no multiple of a resize pattern, and small files.
SAMPLING = 13


class Case(NamedTuple):
    images: list[Any]
    arguments: dict[str, Any]
    step: int = 1  # between the recorded rows and columns


def levels(height: int, width: int, channels: int = 3) -> np.ndarray:
    """An (H, W, C) uint8 array with edges, slopes and fine texture."""
    y, x, c = np.ogrid[:height, :width, :channels]
    slope = (37 * y + 11 * x * (c + 1)) // 8
    texture = (x * x * 29 + y * y * 17 + x * y * (c + 3)) % 91
    return ((slope + texture + 120 * ((x // 7 + y // 5) % 2)) % 256).astype(np.uint8)


def picture(mode: str, height: int = 17, width: int = 23) -> Image.Image:
    """A picture of one of Pillow's modes, with levels that 4.49 takes as they are."""
    if mode == "P":
        image = Image.fromarray(levels(height, width, 1)[..., 0] // 4)
        image.putpalette(levels(64, 3).reshape(-1)[: 64 * 3].tobytes())
        return image
    if mode == "1":
        return Image.fromarray(levels(height, width, 1)[..., 0] > 110)
    if mode in ("I", "F"):
        return Image.fromarray(levels(height, width, 1)[..., 0].astype({"I": np.int32, "F": np.float32}[mode]))
    channels = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, (width, height), levels(height, width, channels).tobytes())


def _cases() -> dict[str, Case]:
    array = levels(17, 23)
    cases = {f"mode-{mode}": Case([picture(mode)], SMALL) for mode in ("RGB", "L", "LA", "RGBA", "P", "CMYK", "1")}
    cases |= {f"mode-{mode}": Case([picture(mode)], SMALL) for mode in ("I", "F", "YCbCr", "HSV")}
    transparent = picture("P")
    transparent.info["transparency"] = 5
    cases["mode-P-transparent"] = Case([transparent], SMALL)
    for mode, channels in (("RGBA", 4), ("CMYK", 4), ("LA", 2)):
        arguments = {"do_convert_rgb": False, "input_data_format": "channels_last"}
        statistics = {"image_mean": [0.1, 0.2, 0.3, 0.4][:channels], "image_std": [0.5, 0.6, 0.7, 0.8][:channels]}
        cases[f"unconverted-{mode}"] = Case([picture(mode)], SMALL | arguments | statistics)

    several = [picture("RGB", 17, 23), picture("RGB", 23, 17), picture("RGB", 14, 14), picture("RGB", 5, 9)]
    cases["several"] = Case(several, SMALL)
    cases["channels-last"] = Case(several, SMALL | {"data_format": "channels_last"})
    cases["without-crop"] = Case(several, SMALL | {"do_center_crop": False})

    cases["array-first"] = Case([array.transpose(2, 0, 1)], SMALL)
    cases["array-batch"] = Case(list(np.stack([array, 255 - array])), SMALL)
    cases["array-int32"] = Case([array.astype(np.int32)], SMALL)
    cases["array-whole-float64"] = Case([array.astype(np.float64)], SMALL)
    for dtype in ("float16", "float32", "float64"):
        fractions = (array / 255).astype(dtype)
        cases[f"array-{dtype}"] = Case([fractions], SMALL | {"do_rescale": False})
        cases[f"array-{dtype}-as-it-is"] = Case(
            [fractions], {"do_resize": False, "do_center_crop": False, "do_rescale": False}
        )
    one = {"image_mean": 0.4, "image_std": 0.3}
    cases["array-gray"] = Case([levels(17, 23, 1)], SMALL | one)
    cases["array-rgba"] = Case([levels(17, 23, 4)], SMALL | one | {"input_data_format": "channels_last"})

    for resize, crop, rescale, normalize in itertools.product((False, True), repeat=4):
        steps = {"do_resize": resize, "do_center_crop": crop, "do_rescale": rescale, "do_normalize": normalize}
        name = "".join(letter if do else "-" for letter, do in zip("RCSN", steps.values(), strict=True))
        cases[f"steps-{name}"] = Case([picture("RGB", 16, 19)], SMALL | steps)
    for edge in (60, (9, 40), (40, 9), {"height": 13, "width": 26}):
        name = "x".join(str(number) for number in (edge.values() if isinstance(edge, dict) else np.ravel(edge)))
        cases[f"crop-{name}"] = Case([picture("RGB")], SMALL | {"crop_size": edge, "do_normalize": False})
    cases["size-number"] = Case([picture("RGB")], SMALL | {"size": 15})
    cases["size-pair"] = Case([picture("RGB")], SMALL | {"size": (15, 31)})
    cases["size-height-width"] = Case([picture("RGB")], SMALL | {"size": {"height": 20, "width": 12}})
    cases["size-longest-edge"] = Case(
        [picture("RGB")], SMALL | {"size": {"shortest_edge": 14, "longest_edge": 15}, "do_center_crop": False}
    )
    cases |= {f"resample-{number}": Case(several[:2], SMALL | {"resample": number}) for number in range(6)}
    for name, factor in (("1/127.5", 1 / 127.5), ("1/256", 1 / 256), ("0.01", 0.01), ("2", 2)):
        cases[f"factor-{name}"] = Case([picture("RGB")], SMALL | {"rescale_factor": factor})
    cases["one-mean"] = Case([picture("RGB")], SMALL | {"image_mean": 0.25, "image_std": 0.5})

    large = [(375, 500), (500, 375), (334, 500), (500, 333), (480, 640), (640, 480), (161, 240)]
    pictures = [picture("RGB", *size) for size in large]
    cases["large-224"] = Case(pictures, {}, SAMPLING)
    at_384 = {"size": {"shortest_edge": 384}, "crop_size": {"height": 384, "width": 384}}
    cases["large-384"] = Case(pictures, at_384 | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, 3 * SAMPLING)
    return cases


CASES = _cases()


def sampled(result: np.ndarray, case: Case) -> np.ndarray:
    """What is recorded of a result: all of it, or some of the rows and columns of a (C, H, W) one."""
    return result[:, :: case.step, :: case.step] if case.step > 1 else result
