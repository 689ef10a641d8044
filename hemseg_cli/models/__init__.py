"""Networks by name, and what a checkpoint needs to rebuild one."""
