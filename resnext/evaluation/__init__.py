"""The error of a network on labelled images, counted by one process or by many."""


class DataError(ValueError):
    """An evaluation that cannot be made as asked. Says what was expected, what came and what to do."""
