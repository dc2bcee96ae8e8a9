"""Built-in methods, one per file. A file is imported only in the process that runs its method."""
