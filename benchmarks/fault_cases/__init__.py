"""Kinds of faults that a campaign tries, and the small inputs that it tries them on."""
