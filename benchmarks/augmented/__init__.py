"""What retrieval into the model is worth: `python -m farfield.benchmarks.augmented neighbours`."""
