"""Other ways to take the same step: C, CUDA graph, 8-bit weights. They never change what is drawn."""
