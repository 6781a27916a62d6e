"""Measures how fast this machine embeds; the library of `cnclip bench`.

`suite.py` measures, `report.py` formats the results; `flops.py` counts a model's operations,
`machine.py` measures the machine's peak rate, `start.py` starts processes, `inputs.py` makes images
and texts, `random_model.py` makes models with random weights. Used by `cli` only.
"""

from .flops import image_flops, text_flops
from .machine import measure_peak
from .random_model import random_archive, write_model_directory
from .report import BenchmarkReport, Result, format_report
from .suite import PRECISIONS, Settings, run_benchmark

__all__ = [
    "PRECISIONS",
    "BenchmarkReport",
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
