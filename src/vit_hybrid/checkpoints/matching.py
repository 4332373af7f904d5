"""What a checkpoint should hold against what it does hold, in one message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from .files import ModelLoadError

# A shape; None stands for a side of which the file tells nothing, so that any number from 1 on fits.
Shape: TypeAlias = tuple[int | None, ...]

# Whether a model of other numerics is written: never, where nothing but epsilons differs, or whatever differs.
Approximate: TypeAlias = bool | Literal["epsilons"]

# How many names a message lists of each kind before it says how many more there are.
NAMES_SHOWN = 5


class CheckpointError(ModelLoadError):
    """A file whose weights cannot be used; the message is one line that names the file and says why.

    Args:
        source: The file, as the person who gave it would recognize it.
        reason: What is wrong, in a sentence without its final stop.
        missing: Names of weights that should be there, with their expected shapes.
        unexpected: Names of weights that have no place in the model, with their shapes.
        misfitting: Names of weights of another shape than the model's, with the shape they have and the expected one.
        advice: What to do, as whole sentences.

    Attributes:
        missing, unexpected, misfitting: All those names, also the ones that the message leaves out.
    """

    def __init__(
        self,
        source: object,
        reason: str,
        *,
        missing: Mapping[str, Shape] | None = None,
        unexpected: Mapping[str, Shape] | None = None,
        misfitting: Mapping[str, tuple[Shape, Shape]] | None = None,
        advice: str = "",
    ) -> None:
        self.missing = list(missing or {})
        self.unexpected = list(unexpected or {})
        self.misfitting = list(misfitting or {})
        lists = [
            _listed("Missing", [f"{name} {_written(shape)}" for name, shape in (missing or {}).items()]),
            _listed("Unexpected", [f"{name} {_written(shape)}" for name, shape in (unexpected or {}).items()]),
            _listed(
                "Misfitting",
                [
                    f"{name} is {_written(given)}, expected {_written(expected)}"
                    for name, (given, expected) in (misfitting or {}).items()
                ],
            ),
        ]
        super().__init__(" ".join(part for part in (f"{source}: {reason}.", *lists, advice) if part))


def refused(differing: Iterable[str], approximate: Approximate) -> list[str]:
    """Those of the fields in which numerics differ that keep a model from being written.

    An epsilon moves logits by less than single precision shows in a trained model; where another one is all that
    differs, nobody needs to be asked.
    """
    fields = list(differing)
    if approximate is True or (approximate == "epsilons" and all(name.endswith("_eps") for name in fields)):
        return []
    return fields


def require_match(
    expected: Mapping[str, Shape],
    given: Mapping[str, Shape],
    source: object,
    *,
    reason: str = "the weights do not fit the model",
    advice: str = "",
) -> None:
    """Holds the names and shapes of a file's weights against those that the model needs.

    Args:
        expected: What the model needs, under the names the file should use. A side of None fits any number but 0.
        given: What the file has.
        source: The file, for the message.
        reason: What to say is wrong where anything is, without the final stop.
        advice: What to do about it, as whole sentences.

    Raises:
        CheckpointError: If a weight is missing, has no place, or has another shape; it lists all three.
    """
    missing = {name: shape for name, shape in expected.items() if name not in given}
    unexpected = {name: shape for name, shape in given.items() if name not in expected}
    misfitting = {
        name: (given[name], shape)
        for name, shape in expected.items()
        if name in given and not _fits(given[name], shape)
    }
    if missing or unexpected or misfitting:
        raise CheckpointError(
            source, reason, missing=missing, unexpected=unexpected, misfitting=misfitting, advice=advice
        )


def _fits(given: Shape, expected: Shape) -> bool:
    return len(given) == len(expected) and all(
        (wanted is None and side) or side == wanted for side, wanted in zip(given, expected, strict=True)
    )


def _written(shape: Shape) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


def _listed(kind: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    rest = len(items) - NAMES_SHOWN
    more = f"; and {rest} more" if rest > 0 else ""
    return f"{kind} ({len(items)}): {'; '.join(items[:NAMES_SHOWN])}{more}."


__all__ = ["CheckpointError", "Shape", "require_match"]
