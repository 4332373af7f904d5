"""Runtimes for a classifier: PyTorch, OpenVINO, ONNX Runtime, behind one small protocol.

```python
>>> from vit_hybrid import engines

>>> engine = engines.load("vit-hybrid-tiny-imagenet", engine="openvino", precision="bf16")
>>> engine.logits(pixel_values).shape  # NumPy, (N, 3, H, W)
(1, 180)
>>> engine = engines.load("vit-hybrid-tiny-imagenet", output="both")
>>> logits, features, _ = engine.run(pixel_values)
```

Importing this loads neither torch nor transformers; nor does loading a bundle, or a model that is in the cache.
"""

from typing import TYPE_CHECKING

from ..errors import EngineError, EngineWarning
from ..first_use import on_first_use as _on_first_use
from ..runtimes import ENGINES, PRECISIONS
from .loading import load
from .protocol import Engine, LoadedEngine, Outputs, Specification

if TYPE_CHECKING:
    from .agreement import promised as promised

__getattr__ = _on_first_use(__name__, {"promised": "agreement"})

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Engine",
    "EngineError",
    "EngineWarning",
    "LoadedEngine",
    "Outputs",
    "Specification",
    "load",
    "promised",
]
