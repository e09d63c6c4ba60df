"""What the readers of the fuzzer raise where the program is wrong."""


class Broken(Exception):
    """What was read, or said, is not what it has to be."""
