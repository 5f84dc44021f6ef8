"""Keeps tasks by the signals that score measured."""
