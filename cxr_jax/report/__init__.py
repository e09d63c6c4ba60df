"""From predictions and their statistics to pages that a person reads; no models, no JAX."""
