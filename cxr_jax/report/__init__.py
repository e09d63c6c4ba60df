"""Pages that a person reads, made from predictions and their statistics, without JAX."""
