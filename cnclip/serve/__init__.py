"""The search application: a web page in Chinese and English that works without the internet.

`collections.py` opens the collections to search, `answers.py` has the functions of the page and
`words.py` its texts. `tiles.py` and `look.py` are its HTML and style, `app.py` its components.
`guard.py` protects it from other hosts, `server.py` runs it. Only `app.py`, `guard.py` and
`server.py` require Gradio.
"""

from .collections import Searchable, open_folder, open_gallery, open_indexes

__all__ = ["Searchable", "open_folder", "open_gallery", "open_indexes"]
