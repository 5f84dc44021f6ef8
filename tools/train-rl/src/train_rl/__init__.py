"""Reinforcement learning on tasks with the verifier's reward."""
