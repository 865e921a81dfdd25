"""Evaluation: feature networks, metrics and statistics; nothing else of cm3leon needs it."""
