"""Options that several subcommands read alike."""

from __future__ import annotations

import re

import typer


def parsed_size(text: str | None) -> tuple[int, int] | None:
    """Height and width in pixels from `384` or `256x384`.

    Raises:
        typer.BadParameter: If `text` is neither.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is no size such as 384 or 256x384 (height x width).", param_hint="--image-size"
        )
    return int(match[1]), int(match[2] or match[1])
