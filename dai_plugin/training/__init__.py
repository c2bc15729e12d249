"""A training step: rows in, layers measured, outputs out, the objective."""
