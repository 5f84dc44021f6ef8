"""Rewrites the instructions of tasks with a language model; the environment and the tests stay."""
