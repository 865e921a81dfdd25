"""Tasks: what is asked of a model in words and pictures (section 4), and the rows it learns on."""
