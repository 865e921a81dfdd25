"""Feature networks, the resizes that belong to them, and features on disk."""
