"""The ways in which a picture is explained, by name. The standard library alone, for the command's help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

ROLLOUT, ATTENTION, GRAD_CAM, RELEVANCE, LEGRAD = METHODS = ("rollout", "attention", "grad-cam", "relevance", "legrad")
DEFAULT_METHOD = RELEVANCE
# Those of which a map says something of a label.
OF_LABELS = (GRAD_CAM, RELEVANCE, LEGRAD)
# Which methods take an argument that others do not.
TAKES = {
    "layer": (ATTENTION, GRAD_CAM),
    "head": (ATTENTION,),
    "fusion": (ROLLOUT, ATTENTION),
    "discard": (ROLLOUT,),
    "token": (ROLLOUT, ATTENTION),
}
# What makes one matrix of a layer's heads.
FUSIONS = ("mean", "max", "min")
DEFAULT_FUSION = "mean"

if TYPE_CHECKING:
    Method: TypeAlias = str
    Fusion: TypeAlias = str
else:
    # For options, which are checked against them when a program runs; made of the lists, not written again.
    Method = Literal[METHODS]
    Fusion = Literal[FUSIONS]

__all__ = [
    *("ATTENTION", "DEFAULT_FUSION", "DEFAULT_METHOD", "FUSIONS", "GRAD_CAM", "LEGRAD", "METHODS", "OF_LABELS"),
    *("RELEVANCE", "ROLLOUT", "TAKES", "Fusion", "Method"),
]
