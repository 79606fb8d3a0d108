"""Files for other runtimes, each checked by its own runtime."""
