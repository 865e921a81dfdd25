"""Text-to-image systems: ours and other libraries'."""
