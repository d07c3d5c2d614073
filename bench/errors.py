"""What keeps a measurement from being made."""


class BenchError(Exception):
    """One sentence: what could not be done, and what was said about it."""
