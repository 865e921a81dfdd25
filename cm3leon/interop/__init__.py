"""Other projects' weights and layouts, read and written."""
