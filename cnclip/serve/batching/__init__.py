"""Many callers, one model: see `Batcher`. It knows nothing of HTTP.

`dispatch.py` has the way of a request, `queues.py` and `schedule.py` decide what is computed next,
`compute.py` computes, `memory.py` limits what is decoded at a time, `workers.py` has the threads,
`options.py` the limits, and `counters.py` what is counted.
"""

from .batcher import Batcher
from .counters import Counters, Tally
from .options import BatchOptions
from .queues import Embedded

__all__ = ["BatchOptions", "Batcher", "Counters", "Embedded", "Tally"]
