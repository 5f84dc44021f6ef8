"""One Apptainer image a stack: its name, what it holds, how it is built and verified."""
