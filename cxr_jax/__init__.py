"""Self-supervised pretraining of chest X-ray encoders in JAX, and what it is worth."""
