"""Records of runs: the store and its schema."""
