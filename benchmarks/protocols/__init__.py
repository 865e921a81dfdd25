"""What is asked and what it is measured against."""
