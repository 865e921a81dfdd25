"""Retrieval (section 2.1): the memory bank, and which documents stand before a query."""
