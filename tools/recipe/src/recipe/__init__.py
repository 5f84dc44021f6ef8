"""Recipe files: what may stand in one, and what it asks to be built."""
