"""The harness: one file a benchmark, numbers in `metrics/`, shared machinery in `harness/`."""
