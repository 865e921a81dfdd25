"""How answers to tasks are scored, one file a number: arrays and texts in, one value an example."""
