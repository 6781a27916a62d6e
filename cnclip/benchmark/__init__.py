"""How fast this machine embeds: what `cnclip bench` runs, as a library.

`suite.py` measures, `report.py` prints; `flops.py` counts a model's arithmetic, `machine.py`
measures what the machine could do, `start.py` starts processes, `inputs.py` makes what is embedded,
`random_model.py` makes models to measure where no checkpoint is at hand.
May import all rooms below `cli`.
"""

from .flops import image_flops, text_flops
from .machine import measure_peak
from .random_model import random_archive, write_model_directory
from .report import Report, Result, format_report
from .suite import PRECISIONS, Settings, run_benchmark

__all__ = [
    "PRECISIONS",
    "Report",
    "Result",
    "Settings",
    "format_report",
    "image_flops",
    "measure_peak",
    "random_archive",
    "run_benchmark",
    "text_flops",
    "write_model_directory",
]
