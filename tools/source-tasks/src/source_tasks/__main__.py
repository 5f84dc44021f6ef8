"""`python -m source_tasks`."""

from source_tasks.cli import main

main()
