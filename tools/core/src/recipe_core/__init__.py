"""What the stage tools share: artifacts, records, task folders, seeds, command lines."""
