"""Fine-tuning, and training from scratch: `finetune(model, train, ...)` and `cnclip train`.

One file a part of a run: `options.py` what can be asked for, `loader.py` and `augment.py` the
batches, `towers.py` the model, `loss.py` and `step.py` one step, `optimizer.py`, `validate.py`,
`run_folder.py` what is kept on disk, `loop.py` all of it in its order. Needs Python's torch. Uses
`datasets`, `checkpoints`, `evaluate` and what is below them.
"""

from typing import TYPE_CHECKING, Any

from .options import TrainOptions

if TYPE_CHECKING:
    from .loop import TrainReport, finetune

__all__ = ["TrainOptions", "TrainReport", "finetune"]


def __getattr__(name: str) -> Any:
    """The rest imports torch, when it is asked for."""
    if name in ("finetune", "TrainReport"):
        from . import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
