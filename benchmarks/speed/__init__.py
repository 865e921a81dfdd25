"""Benchmarks of speed and what they share."""
