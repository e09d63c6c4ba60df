"""CLIPs as open_clip saves them, with a ViT of timm's and a BERT.

biomedclip  BiomedCLIP (arXiv:2303.00915): ViT-B/16, 224 px, CLIP's mean and deviation. Its file is
            open_clip_pytorch_model.bin; its text tower is read when it is asked for, with the
            tokenizer.json or vocab.txt beside it

Features are those that are compared with texts.
"""

from functools import partial
from pathlib import Path

import numpy as np

from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import errors_naming, strip_prefix
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers import timm
from cxr_jax.weights.importers._towers import read_biomedclip
from cxr_jax.weights.importers._vit import read_vit
from cxr_jax.weights.importers.vits import CLIP_PIXELS

LAYOUT = timm.LAYOUT._replace(outer={**timm.LAYOUT.outer, "project": "head.proj"})


def load(path: str | Path) -> Encoder:
    """Reads the image tower; beside it the text's, if it is there, when asked for."""
    arrays = read_arrays(path)
    text = partial(read_biomedclip, path) if "text.proj.0.weight" in arrays else None
    with errors_naming(path):
        arrays = strip_prefix(arrays, ("visual.",), ("text.", "logit_scale"))
        arrays = {key.removeprefix("trunk."): array for key, array in arrays.items()}
        for key, rank in ((LAYOUT.cls, 3), ("head.proj.weight", 2)):
            if np.ndim(arrays.get(key)) != rank:
                raise ValueError(f"does not fit BiomedCLIP: no visual {key} of {rank} dimensions")
        fields = {"projection": len(arrays["head.proj.weight"])}
        fields |= dict(zip(("mean", "std"), CLIP_PIXELS))
        return read_vit(Path(path).stem, arrays, LAYOUT, **fields)._replace(text=text)


SOURCES = {"biomedclip": load}
