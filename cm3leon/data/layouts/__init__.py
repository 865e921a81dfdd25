"""Data sets of tasks as they lie on disk, one file a layout: each is read into `data.examples`."""
