"""Pictures that are like a picture, and pictures that are nearly the same, among those whose vectors `embed` wrote.

```python
>>> from vit_hybrid.search import Index, by_all_pairs

>>> index = Index("pictures.parquet")  # doctest: +SKIP
>>> groups = by_all_pairs(index, threshold=0.95)  # doctest: +SKIP
```
"""

from .approximate import Approximate, approximate
from .duplicates import Group, by_all_pairs
from .index import Index, Neighbor

__all__ = ["Approximate", "Group", "Index", "Neighbor", "approximate", "by_all_pairs"]
