"""The paper-style report."""
