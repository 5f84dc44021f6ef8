"""Says whether a cluster can run the workflow, and what mends it where it cannot."""
