"""CM3Leon (arXiv 2309.02591): an open reference implementation. See docs/design.md."""

__version__ = "0.1.0"
