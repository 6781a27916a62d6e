"""The engine: the shared object that runs models, made for the installed version of torch.

`open_engine` finds torch and opens the engine for it, from the package, from the cache, or compiled
once. `libtorch` knows the installed torch, `build` compiles. Importing this package loads nothing.
"""

from .opening import compiled_engine, cuda_count, find_engine, included_engines, open_engine

__all__ = ["compiled_engine", "cuda_count", "find_engine", "included_engines", "open_engine"]
