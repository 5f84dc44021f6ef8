"""Divide a number of rollouts among tasks in proportion to a weight."""
