"""Keep tasks by the length of something."""
