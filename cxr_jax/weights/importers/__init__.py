"""The sources of weights, one per file: `load(path) -> Encoder`.

`load` raises FileNotFoundError, and ValueError with the file's name and all that does not fit.
"""
