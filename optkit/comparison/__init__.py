"""The judge: compares optimizers on a model and data of your own, under equal tuning.

It needs the extra `compare`: `pip install 'optkit[compare]'`.
"""

from optkit.comparison import _extra as _extra  # before the modules that it looks for
from optkit.comparison.errors import ComparisonError
from optkit.comparison.judge import Comparison, compare
from optkit.comparison.results import Row
from optkit.comparison.task import Task

__all__ = ["Comparison", "ComparisonError", "Row", "Task", "compare"]
