"""Runs the agent terminus-2 on tasks in sandboxes and records trajectories."""
