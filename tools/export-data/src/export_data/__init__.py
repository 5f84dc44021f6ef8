"""Writes tasks and trajectories in the forms in which such data sets are published, with a card."""
