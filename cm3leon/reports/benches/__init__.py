"""How each benchmark's record is shown."""
