"""Prediction over any number of pictures: a row each, in parts that a later run goes on from.

```python
import vit_hybrid

vit_hybrid.predict("pictures/", "rows.parquet", model="my-model")    # also vit_hybrid.predict.predict
vit_hybrid.predict.embed("pictures/", "vectors.parquet")
```
"""

from typing import TYPE_CHECKING

from ..first_use import called_as, on_first_use

if TYPE_CHECKING:
    from .job import Progress as Progress
    from .job import Summary as Summary
    from .job import embed as embed
    from .job import predict as predict

__getattr__ = on_first_use(__name__, dict.fromkeys(("Progress", "Summary", "embed", "predict"), "job"))
called_as(__name__, "predict")

__all__ = ["Progress", "Summary", "embed", "predict"]
