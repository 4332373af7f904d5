"""Labeled pictures: class folders, parquet, CSV, TSV, JSON Lines, and data sets of Hugging Face's datasets library.

- A folder of class folders, each searched through all its levels, or of train/ and val/ (and test/) with class folders.
- A parquet file, or a folder of them (train.parquet, train-00000-of-00002.parquet, ...): pictures as a struct of
  `bytes` and `path`, as binary, or as paths; class names as datasets writes them into the schema.
- A CSV or TSV file with a header line, or JSON Lines, or a folder of them: paths relative to the file. In CSV and TSV
  several labels of one picture stand in one cell with | or ; between them, in the others in a list. metadata.csv and
  metadata.jsonl in a folder, or in its train/ and val/, are read as datasets' ImageFolder reads them.
- A folder written by `save_to_disk` of datasets, and owner/name of a data set on the Hugging Face hub.

Text and integers are classes, lists are several labels, numbers of which any has a fraction are a regression; the
argument `problem_type` decides where that guess is wrong. Imports neither torch nor transformers.
"""

from .listing import Passed
from .pictures import LabeledPictures, find_unreadable
from .reading import Split, read_labeled, read_splits
from .targets import MULTI_LABEL, PROBLEM_TYPES, REGRESSION, SINGLE_LABEL, DataError

__all__ = [
    "MULTI_LABEL",
    "PROBLEM_TYPES",
    "REGRESSION",
    "SINGLE_LABEL",
    "DataError",
    "LabeledPictures",
    "Passed",
    "Split",
    "find_unreadable",
    "read_labeled",
    "read_splits",
]
