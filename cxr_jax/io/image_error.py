"""The one error that an image can give."""


class ImageError(ValueError):
    """An image cannot be read; the message is one sentence fit for skipped.csv, without a path."""
