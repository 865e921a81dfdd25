"""Images to be scored: drawn by a system, given, or real."""
