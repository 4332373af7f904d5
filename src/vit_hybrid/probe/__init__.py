"""How much a frozen model knows of new classes: few-shot least squares and nearest neighbors on its features."""

from ..inference.features import DEFAULT_NEIGHBORS, Features, nearest_neighbors
from .frozen import FrozenModel, ProbeError
from .protocol import DEFAULT_SHOTS, DEFAULT_TRIALS, Report, draw_shots, probe
from .solving import DEFAULT_L2, DEVIATION_EPSILON, L2_CANDIDATES, LeastSquares, fit_scale, least_squares
from .writing import check_output, write_model

__all__ = [
    "DEFAULT_L2",
    "DEFAULT_NEIGHBORS",
    "DEFAULT_SHOTS",
    "DEFAULT_TRIALS",
    "DEVIATION_EPSILON",
    "L2_CANDIDATES",
    "Features",
    "FrozenModel",
    "LeastSquares",
    "ProbeError",
    "Report",
    "check_output",
    "draw_shots",
    "fit_scale",
    "least_squares",
    "nearest_neighbors",
    "probe",
    "write_model",
]
