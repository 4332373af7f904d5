from __future__ import annotations

from pathlib import Path

import pytest
from probe_pictures import CLASSES

from vit_hybrid.probe import FrozenModel


@pytest.fixture
def frozen(tiny_folder: Path) -> FrozenModel:
    return FrozenModel.from_pretrained(str(tiny_folder), CLASSES, device="cpu", batch_size=4)
