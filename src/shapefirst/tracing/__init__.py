"""Which pixels attend to which words, step by step, on stock pipelines: heat maps over the pictures.

It imports ``attention`` and ``drawing``. One more way to look at a trace is a method of ``trace.Trace``.
"""

from shapefirst.tracing.trace import HeatMap, Trace, trace

__all__ = ["HeatMap", "Trace", "trace"]
