"""Intervals, significance and paired comparisons."""
