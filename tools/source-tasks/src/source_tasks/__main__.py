from source_tasks.cli import main

main()
