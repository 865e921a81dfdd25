"""Captions as numbers: against reference captions, and against the truth of a scene."""
