"""Data: where documents come from, and the token cache that training reads."""
