"""What the ablations draw, train and score."""
