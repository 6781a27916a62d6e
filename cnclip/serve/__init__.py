"""The HTTP server: an API for embeddings, search and classification, and the search application.

A request passes `guard.py`, which checks who asks and how much it sends; a route (`embeddings.py`,
`search.py`, `classify.py`, `describe.py`, `immich.py`) reads it by `inputs.py` and hands its items
to the batcher of a model (`batching/`). `schemas.py` describes requests and answers, `faults.py`
errors. `application.py` puts the parts together, `server.py` runs them. `static/` is the
application in the browser; it uses the API only.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "batching": ("BatchOptions", "Batcher", "Counters", "Embedded", "Tally"),
    "collections": ("Searchable", "open_folder", "open_gallery", "open_indexes"),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a module on the first use of its names: the options of a command need none of them."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACES[name]}", __name__), name)
