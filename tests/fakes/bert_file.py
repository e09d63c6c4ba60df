"""A file of BERT's in miniature: random arrays by the keys that transformers gives them."""

import numpy as np


def arrays(
    width: int, hidden: int, blocks: int, vocabulary: int, positions: int
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}

    def add(name, *shape):
        found[name] = rng.normal(0, 0.4, shape).astype(np.float32)

    def linear(name, fan_in, out):
        add(f"{name}.weight", out, fan_in)
        add(f"{name}.bias", out)

    def norm(name):
        add(f"{name}.weight", width)
        add(f"{name}.bias", width)

    for name, count in (("word", vocabulary), ("position", positions), ("token_type", 2)):
        add(f"embeddings.{name}_embeddings.weight", count, width)
    norm("embeddings.LayerNorm")
    for block in (f"encoder.layer.{i}" for i in range(blocks)):
        for part in ("query", "key", "value"):
            linear(f"{block}.attention.self.{part}", width, width)
        linear(f"{block}.attention.output.dense", width, width)
        norm(f"{block}.attention.output.LayerNorm")
        linear(f"{block}.intermediate.dense", width, hidden)
        linear(f"{block}.output.dense", hidden, width)
        norm(f"{block}.output.LayerNorm")
    return found
