"""Programs for OpenVINO that are built, not traced: from a model's files, without torch, or from a PyTorch model.

A trace takes torch, transformers and several seconds; building takes some tenths of one, and leaves operations as
OpenVINO computes them fastest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoints.files import CONFIG_FILE, safetensors_alone
from ..model.geometry import merged_by_layer, token_grid
from ..runtimes import LOGITS, RUNTIMES, openvino
from .plain_config import CLASSIFIER, plain_config
from .program import Converted, Made, described

if TYPE_CHECKING:
    from ..model.modeling import ViTHybridForImageClassification

ENGINE = "openvino"
PRECISION = "f32"
# What safetensors calls the numbers that NumPy has, too.
READABLE = {"F64", "F32", "F16"}
# Whose modules compute what they say; others, such as an adapter's, have to be traced.
PLAIN_MODULES = ("torch.nn.", "transformers.activations", f"{__name__.partition('.')[0]}.model.")


def made_from_files(
    fields: Mapping[str, Any],
    weights: list[Path],
    provenance: Mapping[str, Any],
    *,
    dynamic: bool = False,
    token_merging: int | None = None,
    output: str = LOGITS,
) -> Made | None:
    """A bundle for OpenVINO in float32 of a folder that `save_pretrained` wrote.

    Args:
        fields: The content of its `config.json`.
        weights: Its files of weights.
        provenance: The model's name and the checksums of its weights and configuration.
        dynamic: Whether it is to take pictures of other sizes too.
        token_merging: Tokens to merge per layer.
        output: What the program is to give, of `runtimes.OUTPUTS`.

    Returns:
        None where the files are not plainly such a model's: whoever loads it then says what they are, or what is wrong.
    """
    config = plain_config(fields)
    arrays = None if config is None else _read(weights)
    if arrays is None or (config.num_labels and f"{CLASSIFIER}.weight" not in arrays):
        return None
    program = _program(config, arrays, dynamic, token_merging, output)
    if program is None:
        return None
    text = json.dumps({**fields}, indent=2, sort_keys=True) + "\n"
    converted = Converted(ENGINE, program, lambda program, folder: _save(program, folder, text))
    how: dict[str, Any] = {"dynamic": dynamic, "token_merging": token_merging, "output": output}
    return Made(converted, described(config, converted, PRECISION, provenance, **how))


def converted_from(
    model: ViTHybridForImageClassification,
    dynamic: bool,
    token_merging: int | None,
    output: str,
    for_int8: bool = False,
) -> Converted | None:
    """A program for OpenVINO of a PyTorch model in float32 on the CPU, whose memory it may share; None where it has to
    be traced. `for_int8`: it is to be quantized."""
    if not _is_plain(model):
        return None
    arrays = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    program = _program(model.config, arrays, dynamic, token_merging, output, for_int8)
    if program is None:
        return None

    def save(program: Any, folder: Path) -> None:
        _save(program, folder, None)
        model.config.save_pretrained(folder)

    return Converted(ENGINE, program, save)


def _program(
    config: Any,
    arrays: Mapping[str, Any],
    dynamic: bool,
    token_merging: int | None,
    output: str,
    for_int8: bool = False,
) -> Any | None:
    from .openvino_graph import NotBuilt, build

    merged: tuple[int, ...] = ()
    try:
        rows, columns = token_grid(config)  # OpenVINO says in words of its code what does not fit
        if token_merging is not None:
            merged = tuple(merged_by_layer(1 + rows * columns, config.num_hidden_layers, token_merging))
        return build(config, arrays, output=output, merged=merged, dynamic=dynamic, for_int8=for_int8)
    except (NotBuilt, ValueError):  # the latter of sizes at which no model can run
        return None


def _save(program: Any, folder: Path, config: str | None) -> None:
    # It would halve the weights by itself.
    openvino().save_model(program, str(folder / RUNTIMES[ENGINE].program), compress_to_fp16=False)
    if config is not None:
        (folder / CONFIG_FILE).write_text(config, encoding="utf-8")


def _read(paths: list[Path]) -> dict[str, Any] | None:
    """The weights in float32 by name; None where a file is of another kind."""
    files = safetensors_alone(paths)
    if files is None:
        return None
    from safetensors import SafetensorError, safe_open

    found: dict[str, Any] = {}
    try:
        for path in files:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - it has no other way
                    if file.get_slice(name).get_dtype() not in READABLE:
                        return None
                    found[name] = file.get_tensor(name).astype(np.float32, copy=False)
    except (SafetensorError, OSError):
        return None
    return found


def _is_plain(model: ViTHybridForImageClassification) -> bool:
    """Whether every module computes what its class says, and nobody watches."""
    from ..model.modeling import ViTHybridEncoder, ViTHybridForImageClassification

    # One that merges tokens, or gives features, has others in their place.
    if type(model) is not ViTHybridForImageClassification or type(model.vit.encoder) is not ViTHybridEncoder:
        return False
    return all(
        f"{type(module).__module__}.".startswith(PLAIN_MODULES)
        and "forward" not in module.__dict__
        and not (module._forward_hooks or module._forward_pre_hooks)
        for module in model.modules()
    )


__all__ = ["converted_from", "made_from_files"]
