"""Score a model on held-out tasks."""
