"""Small tools that both packages need: atomic writes, bounded readers, images. Free of JAX."""

from pathlib import Path

# How messages write the command line: a wheel brings the configs and a command of its own.
COMMAND = "cxr-jax" if (Path(__file__).parents[1] / "_bundled").is_dir() else "python run.py"
