"""Reproducible baselines: recipes, the shipped weights under `scenes/`, and numbers quoted from
papers.
"""
