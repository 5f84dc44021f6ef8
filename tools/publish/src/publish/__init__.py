"""Pushes an exported data set or a model to the hub, only when asked."""
