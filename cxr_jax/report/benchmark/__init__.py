"""The report of a benchmark, from files alone."""
