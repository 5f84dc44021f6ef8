"""Drop tasks that are the same as another one."""
