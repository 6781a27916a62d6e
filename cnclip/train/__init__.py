"""Fine-tuning, and training from scratch: `finetune(model, train, ...)` and `cnclip train`.

`run.py` starts or resumes a run, `loop.py` runs its steps. `options.py` has the options,
`loader.py` and `augment.py` make the batches, `model.py` builds and writes the model, `step.py` and
`loss.py` compute one step, `validate.py` measures recall, `run_folder.py`, `run_state.py` and
`journal.py` write files. Requires Python's torch. Uses `datasets`, `checkpoints`, `evaluate` and
the layers below them.
"""

from typing import TYPE_CHECKING, Any

from ..engine.libtorch import find_torch
from .options import TrainOptions

if TYPE_CHECKING:
    from .loop import TrainReport
    from .run import finetune

__all__ = ["TrainOptions", "TrainReport", "finetune"]


def __getattr__(name: str) -> Any:
    """Import on first use the modules that import torch."""
    if name in ("finetune", "TrainReport"):
        find_torch()
        from . import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
