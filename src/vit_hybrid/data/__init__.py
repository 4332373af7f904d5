"""Labeled pictures: class folders, parquet, CSV, TSV, JSON, and data sets of Hugging Face's datasets library.

- A folder of class folders, each searched through all its levels, or of train/ and val/ (and test/) with any of these
  in them. Names such as seg_train beside seg_test are splits too, and a folder around all of it is looked into.
  Of a class folder with images/ and masks/ in it the masks are passed over.
- A parquet file, or a folder of them (train.parquet, train-00000-of-00002.parquet, ...): pictures as a struct of
  `bytes` and `path`, as binary, or as paths; class names as datasets writes them into the schema.
- A CSV or TSV file with a header line, or JSON (an array of objects, or one a line), or a folder of them: paths are
  relative to the file, or names of pictures in the folders beside it, with their ending or without. In CSV and TSV
  several labels of one picture stand in one cell with | or ; between them, in the others in a list; or a column of 0
  and 1 stands for each label. A column `split` counts. metadata.csv and metadata.jsonl in a folder, or in its train/
  and val/, are read as datasets' ImageFolder reads them. Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark;
  commas, semicolons, tabs or | separate its columns.
- Tiny ImageNet as it is distributed: classes by their names instead of their WordNet ids.
- A folder written by `save_to_disk` of datasets, and owner/name of a data set on the Hugging Face hub.

Text and integers are classes, lists are several labels, numbers of which any has a fraction are a regression; the
argument `problem_type` decides where that guess is wrong. "NA", "None" and what else pandas writes for what is missing
are no classes unless `na_as_class` says so. Where tables and folders could mean several things, nothing is read and the
error says what was seen. Imports neither torch nor transformers.
"""

from typing import TYPE_CHECKING

from ..first_use import on_first_use

if TYPE_CHECKING:
    from .held_back import read_held_back as read_held_back
    from .listing import Passed as Passed
    from .listing import Unreadable as Unreadable
    from .pictures import LabeledPictures as LabeledPictures
    from .pictures import find_unreadable as find_unreadable
    from .reading import Split as Split
    from .reading import read_labeled as read_labeled
    from .reading import read_splits as read_splits
    from .targets import MULTI_LABEL as MULTI_LABEL
    from .targets import PROBLEM_TYPES as PROBLEM_TYPES
    from .targets import REGRESSION as REGRESSION
    from .targets import SINGLE_LABEL as SINGLE_LABEL
    from .targets import DataError as DataError

# A command that only lists files loads neither NumPy nor Pillow.
_HOMES = {
    "read_held_back": "held_back",
    **dict.fromkeys(("Passed", "Unreadable"), "listing"),
    **dict.fromkeys(("LabeledPictures", "find_unreadable"), "pictures"),
    **dict.fromkeys(("Split", "read_labeled", "read_splits"), "reading"),
    **dict.fromkeys(("MULTI_LABEL", "PROBLEM_TYPES", "REGRESSION", "SINGLE_LABEL", "DataError"), "targets"),
}

__getattr__ = on_first_use(__name__, _HOMES)

__all__ = [
    "MULTI_LABEL",
    "PROBLEM_TYPES",
    "REGRESSION",
    "SINGLE_LABEL",
    "DataError",
    "LabeledPictures",
    "Passed",
    "Split",
    "Unreadable",
    "find_unreadable",
    "read_held_back",
    "read_labeled",
    "read_splits",
]
