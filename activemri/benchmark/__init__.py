"""Compare policies and reconstructors: one long table, statistics by subject, a report.

The package is also the function :func:`activemri.benchmark.run.benchmark`::

    table = activemri.benchmark(protocol, policies=["random", policy])
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package that is called like a function of the same name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from activemri.benchmark.run import benchmark

        return benchmark(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
