"""How good a model is on labeled pictures: its scores, its mistakes, and the files that keep them.

```python
from vit_hybrid import Predictor
from vit_hybrid.data import read_labeled
from vit_hybrid.evaluate import evaluate

print(evaluate(Predictor.from_pretrained("my-model"), read_labeled("labeled/")).scores)
```
"""

from typing import TYPE_CHECKING

from ..first_use import on_first_use

if TYPE_CHECKING:
    from .job import METRICS_FILE as METRICS_FILE
    from .job import Evaluation as Evaluation
    from .job import Mistake as Mistake
    from .job import as_values as as_values
    from .job import default_split as default_split
    from .job import evaluate as evaluate
    from .job import known_only as known_only
    from .job import matched as matched
    from .job import spread as spread
    from .job import write_files as write_files

_HOMES = dict.fromkeys(
    (
        *("METRICS_FILE", "Evaluation", "Mistake", "as_values", "default_split", "evaluate", "known_only", "matched"),
        *("spread", "write_files"),
    ),
    "job",
)

__getattr__ = on_first_use(__name__, _HOMES)

__all__ = [
    *("METRICS_FILE", "Evaluation", "Mistake", "as_values", "default_split", "evaluate", "known_only", "matched"),
    *("spread", "write_files"),
]
