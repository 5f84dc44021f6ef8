"""Samples answers to questions from a teacher, and filters them."""
