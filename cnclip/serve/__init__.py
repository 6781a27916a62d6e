"""The search application: a web page in Chinese and English that works without the internet.

`collections.py` opens the collections to search, `answers.py` has the functions of the page and
`words.py` its texts. `tiles.py` and `look.py` are its HTML and style, `app.py` its components.
`guard.py` protects it from other hosts, `server.py` runs it. Only `app.py`, `guard.py` and
`server.py` require Gradio.

`batcher.py` lets many callers share one open model: `dispatch.py` has the way of a request,
`queues.py` and `schedule.py` decide what is computed next, `compute.py` computes, `workers.py` has
the threads, `options.py` the limits, and `counters.py` what is counted.
"""

from .batcher import Batcher
from .collections import Searchable, open_folder, open_gallery, open_indexes
from .counters import Counters, Tally
from .options import BatchOptions
from .queues import Embedded

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
