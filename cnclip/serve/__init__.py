"""The search application: a page in the browser, in Chinese and English, without the internet.

`collections.py` is what can be searched, `answers.py` what the page asks for, as plain functions,
`words.py` its words in both languages. `tiles.py` and `look.py` are the page's HTML and style,
`app.py` its parts in Gradio; `guard.py` keeps it to this machine, `server.py` runs it. Only the
last three of these need Gradio. Uses `search`, `demo` and `pipelines`.
"""

from .collections import Searchable, open_folder, open_gallery, open_indexes

__all__ = ["Searchable", "open_folder", "open_gallery", "open_indexes"]
