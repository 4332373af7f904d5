"""Pictures that are like a picture, and pictures that are nearly the same, among those whose vectors `embed` wrote."""

from .approximate import MANY_ROWS, Approximate
from .duplicates import MOST_ROWS_OF_ALL_PAIRS, Group, by_all_pairs
from .index import Index, Neighbor
from .queries import Searcher

__all__ = [
    "MANY_ROWS",
    "MOST_ROWS_OF_ALL_PAIRS",
    "Approximate",
    "Group",
    "Index",
    "Neighbor",
    "Searcher",
    "by_all_pairs",
]
