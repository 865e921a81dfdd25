"""The harness: one file a benchmark, and in folders what they share."""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m benchmarks.X` is on its way to X
    from cm3leon.reports import check_extras

    check_extras()
