"""cxr_jax's own format: every encoder, read back by the weights source `safetensors`.

With it goes its text tower, as text.safetensors, text.json and tokenizer.json.
"""

from typing import Any

from safetensors.numpy import save

from cxr_jax.data import tokenizer
from cxr_jax.weights import text
from cxr_jax.weights.convert import flat
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import Exported, text_of


def export(encoder: Encoder) -> Exported:
    """Writes the variables under our own names, and the model's config."""
    left_out = ("variables", "text")
    facts = {name: value for name, value in encoder._asdict().items() if name not in left_out}
    usage = """import cxr_jax
encoder = cxr_jax.load_encoder("safetensors:FOLDER")
features = encoder(images)  # paths or arrays"""
    files: dict[str, Any] = {"cxr_jax.json": facts}
    if tower := text_of(encoder):
        usage += "\ncosines = encoder.joint(images) @ encoder.text(sentences).T"
        files |= {
            text.FACTS: tower.facts(),
            text.FILE: save(flat(tower.arrays())),
            tokenizer.FILE: tower.tokenizer.to_str().encode(),
        }
    tensors, has_text = flat(encoder.variables), tower is not None
    return Exported(tensors, files, usage, normalises=True, has_text=has_text)
