"""Ranks candidates by their mean z-score over benchmarks, and says what is inside the noise."""
