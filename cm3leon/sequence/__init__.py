"""Token sequences: one id space, documents, and the CM3 objective that masks them (section 2)."""
