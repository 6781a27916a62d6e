"""Containers of images and texts, each read in one place: as rows, and as references to images.

| file | reads |
|---|---|
| `images.py` | folders of images, patterns of paths |
| `exclusions.py` | files and folders that are left out of folders |
| `tables.py`, `parquet_files.py` | lists and tables: `.txt`, CSV, JSON Lines, Parquet |
| `tar_files.py`, `zip_files.py` | tar files as WebDataset makes them, zips |
| `tsv_files.py`, `lmdb_files.py`, `lmdb_tree.py` | Chinese-CLIP's TSV files and LMDB |

`images.py` also has `ImageRef`, an image that is read when it is needed, and `ImageStore`, many of
them. `rows.py` has the names of columns, ids, and the problems of single rows. Uses `preprocessors`
to download.

Parameters have the same meaning in all readers: `name` is the file's name in messages, `problems`
gets the rows that cannot be used, which are left out.
"""

from .images import ImageRef, image_file, spelled, walk
from .parquet_files import parquet_in_memory, pyarrow_modules
from .rows import Columns, Id, ProblemKind, Problems

__all__ = [
    "Columns",
    "Id",
    "ImageRef",
    "ProblemKind",
    "Problems",
    "image_file",
    "parquet_in_memory",
    "pyarrow_modules",
    "spelled",
    "walk",
]
