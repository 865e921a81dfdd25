"""The decoder-only transformer (section 2.3, Table 3)."""
