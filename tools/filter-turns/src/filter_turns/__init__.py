"""Keep trajectories by turns, outcome and error class."""
