"""Prediction over any number of pictures: a row each, in parts that a later run goes on from.

```python
import vit_hybrid

vit_hybrid.predict("pictures/", "rows.parquet", model="my-model")    # also vit_hybrid.predict.predict
vit_hybrid.predict.embed("pictures/", "vectors.parquet")
```
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..first_use import on_first_use

if TYPE_CHECKING:
    from .job import Progress as Progress
    from .job import Summary as Summary
    from .job import embed as embed
    from .job import predict as predict

__getattr__ = on_first_use(__name__, dict.fromkeys(("Progress", "Summary", "embed", "predict"), "job"))


class _Callable(ModuleType):
    """This package, which is called as its function of the same name is, whoever has imported it first."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.predict(*given, **named)


sys.modules[__name__].__class__ = _Callable

__all__ = ["Progress", "Summary", "embed", "predict"]
