"""A page on this machine alone, to draw with and look on: `cm3leon serve`."""
