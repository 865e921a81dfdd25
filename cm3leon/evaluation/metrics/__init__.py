"""Pure numbers: every metric can be imported and used alone."""
