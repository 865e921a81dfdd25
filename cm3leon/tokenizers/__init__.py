"""Tokenizers: text by byte-pair encoding, images by a VQGAN (section 2.1)."""
