"""Containers of images and texts, each read in one place: as rows, and as references to images.

| file | reads |
|---|---|
| `folder.py` | folders of images, patterns of paths |
| `tables.py` | lists and tables: `.txt`; with `csv_files.py`, `lines.py` and `parquet_files.py` |
| `tar_files.py`, `zip_files.py` | tar files as WebDataset makes them, zips |
| `tsv_files.py`, `lmdb_files.py` | Chinese-CLIP's TSV files and LMDB |

`refs.py` has `ImageRef`, an image that is read when it is needed, and `ImageStore`, many of them.
`columns.py` has the names of columns and the suffixes of images, `problems.py` what is wrong with
single rows. Uses `preprocessors` to download.
"""

from .columns import ID_COLUMNS, IMAGE_COLUMNS, IMAGE_SUFFIXES, TEXT_COLUMNS, Columns, Id, id_of
from .folder import ImageFile, image_file, spelled, walk
from .parquet_files import pyarrow_modules
from .problems import Problem, ProblemKind, Problems, with_problems
from .refs import ImageRef, ImageStore, is_url

__all__ = [
    "ID_COLUMNS",
    "IMAGE_COLUMNS",
    "IMAGE_SUFFIXES",
    "TEXT_COLUMNS",
    "Columns",
    "Id",
    "ImageFile",
    "ImageRef",
    "ImageStore",
    "Problem",
    "ProblemKind",
    "Problems",
    "id_of",
    "image_file",
    "is_url",
    "pyarrow_modules",
    "spelled",
    "walk",
    "with_problems",
]
