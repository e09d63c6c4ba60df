"""The one error that a film can give."""


class FilmError(ValueError):
    """A film cannot be read; the message is one sentence fit for skipped.csv, without a path."""
