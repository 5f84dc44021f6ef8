"""Keep trajectories by turns, outcome and error class, and a random part of them."""
