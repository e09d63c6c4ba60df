"""Benchmarks, each one command: `python -m cxr_jax.bench.step`; docs/performance.md reads them."""
