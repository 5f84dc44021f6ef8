"""Measures tasks: signals that filters select by, some of them asked of a language model."""
