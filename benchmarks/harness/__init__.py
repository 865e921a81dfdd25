"""What all benchmarks share: records, prompts, pictures, features, systems, statistics."""
