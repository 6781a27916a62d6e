"""The HTTP server: an API for embeddings, search and classification, and the search application.

A request passes `guard.py`, which checks who asks and how much it sends; a route (`embeddings.py`,
`search.py`, `classify.py`, `describe.py`, `immich.py`) reads it by `inputs.py` and hands its items
to the batcher of a model (`batching/`). `schemas.py` describes requests and answers, `faults.py`
errors. `application.py` puts the parts together, `server.py` runs them. `static/` is the
application in the browser; it uses the API only.
"""

from .batching import Batcher, BatchOptions, Counters, Embedded, Tally
from .collections import Searchable, open_folder, open_gallery, open_indexes

__all__ = [
    "BatchOptions",
    "Batcher",
    "Counters",
    "Embedded",
    "Searchable",
    "Tally",
    "open_folder",
    "open_gallery",
    "open_indexes",
]
