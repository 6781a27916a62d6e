"""Containers of images and texts, each read in one place: as rows, and as references to images.

| file | reads |
|---|---|
| `folder.py` | folders of images, patterns of paths |
| `tables.py` | lists and tables: `.txt`, CSV; with `lines.py` and `parquet_files.py` |
| `tar_files.py`, `zip_files.py` | tar files as WebDataset makes them, zips |
| `tsv_files.py`, `lmdb_files.py` | Chinese-CLIP's TSV files and LMDB |

`refs.py` has `ImageRef`, an image that is read when it is needed, and `ImageStore`, many of them.
`columns.py` has the names of columns and the suffixes of images, `problems.py` what is wrong with
single rows. Uses `preprocessors` to download.

Parameters have the same meaning in all readers: `name` is the file's name in messages, `problems`
gets the rows that cannot be used, which are left out.
"""

from .columns import Columns, Id
from .folder import image_file, spelled, walk
from .parquet_files import pyarrow_modules
from .problems import ProblemKind, Problems
from .refs import ImageRef

__all__ = [
    "Columns",
    "Id",
    "ImageRef",
    "ProblemKind",
    "Problems",
    "image_file",
    "pyarrow_modules",
    "spelled",
    "walk",
]
