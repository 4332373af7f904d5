"""Reports that are alike, number by number."""

from __future__ import annotations

from typing import Any

import pytest


def same_but_for_rounding(one: Any, other: Any) -> None:
    """Asserts that two nested reports have the same keys in the same order and the same values, floats within 1e-12."""
    if isinstance(other, dict):
        assert list(one) == list(other)
        for name, value in other.items():
            same_but_for_rounding(one[name], value)
    elif isinstance(other, list | tuple):
        for pair in zip(one, other, strict=True):
            same_but_for_rounding(*pair)
    elif isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-12, abs=1e-12)
    else:
        assert one == other
