"""Decoding (section 3.1): logits to tokens, and the loops that write images and text."""
