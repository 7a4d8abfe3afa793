"""A training run: its parts, the training step, the run folder and its checkpoints."""
