"""Other projects' loops, timed in turn with ours."""
