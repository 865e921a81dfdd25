"""Checks of feature networks and metrics against published files and values."""
