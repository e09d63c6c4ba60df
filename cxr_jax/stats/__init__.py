"""Statistics on arrays of targets and scores: NumPy and SciPy only, no models."""
