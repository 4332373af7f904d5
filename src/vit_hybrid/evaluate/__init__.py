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
    from .evaluation import Evaluation as Evaluation
    from .job import evaluate as evaluate
    from .many import Measured as Measured
    from .many import measure as measure
    from .pictures import as_values as as_values
    from .pictures import default_split as default_split
    from .pictures import known_only as known_only
    from .pictures import matched as matched
    from .pictures import spread as spread
    from .words import Mistake as Mistake
    from .writing import METRICS_FILE as METRICS_FILE
    from .writing import write_files as write_files

__getattr__ = on_first_use(
    __name__,
    {
        "Evaluation": "evaluation",
        "Mistake": "words",
        "evaluate": "job",
        **dict.fromkeys(("Measured", "measure"), "many"),
        **dict.fromkeys(("as_values", "default_split", "known_only", "matched", "spread"), "pictures"),
        **dict.fromkeys(("METRICS_FILE", "write_files"), "writing"),
    },
)

__all__ = [
    *("METRICS_FILE", "Evaluation", "Measured", "Mistake", "as_values", "default_split", "evaluate", "known_only"),
    *("matched", "measure", "spread", "write_files"),
]
