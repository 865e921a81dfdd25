"""The page of all records."""
