"""Many callers, one model: see `Batcher`. It knows nothing of HTTP."""

from .batcher import Batcher
from .options import BatchOptions
from .queues import Embedded

__all__ = ["BatchOptions", "Batcher", "Embedded"]
