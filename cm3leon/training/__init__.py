"""Training (section 2.3): the loop, its optimisers, schedules and recipes."""
