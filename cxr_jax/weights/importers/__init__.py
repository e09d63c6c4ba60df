"""One file per source of weights: load(path) -> Encoder."""
