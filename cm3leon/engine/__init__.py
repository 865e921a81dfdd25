"""Other ways to take the same step: C, CUDA graph, int8 weights. They change nothing drawn."""
