"""ResNets and DenseNets under torchvision's keys, whoever trained them, and torchvision's ViTs.

Architectures are read from the keys. What no key can tell is the source's: by which mean and
deviation pixels were normalised, which size was read, where a bottleneck's stride sits.

torchvision      ResNets of 18 to 152 layers (the form called v1.5), DenseNets, ViTs; 224 px, or
                 the size of a ViT's positions. No resize to 256 before, as ImageNet's crop has
                 it: it would cut the lung bases off. The same holds for all of 224 px below.
torchvision_v1   ResNets whose bottlenecks have their stride of 2 in the first 1x1 convolution:
                 the paper's (arXiv:1512.03385), Caffe's and Keras's
moco             MoCo v1 and v2 (arXiv:2003.04297): the query encoder; the key encoder, which
                 follows it, the queue and the projector are passed over
moco_cxr         MoCo-CXR (arXiv:2010.05352) and MedAug (arXiv:2102.10663), which builds on it
s2mts2           S2MTS2 (arXiv:2103.03629): a DenseNet-121 whose ReLUs leak by 0.1
convirt          ConVIRT (arXiv:2010.00747): the image encoder of its code's files, or by itself
gloria           GLoRIA (Huang et al., ICCV 2021), with its text tower. Its code pads an image to a
                 square with black, cuts a border of 1/16 off and enlarges what is left from 224 px
                 to 299; here the square stays whole. Its .ckpt files hold a pickled config, which
                 is refused: save `torch.load(path, weights_only=False)["state_dict"]` by itself,
                 if you trust them
biovil           BioViL and BioViL-T (arXiv:2204.09817, 2301.04558; code: microsoft/hi-ml): the
                 ResNet-50, at 448 px, pixels in [0, 1] as they are. Features are the mean of its
                 last map, before BioViL-T's comparison with an earlier image, which, as the
                 projector, is passed over. Its code cuts 448 px out of 512
lightly          lightly's checkpoints of SimCLR, MoCo, BYOL, DINO and so on with a ResNet: the
                 `backbone`, the teacher's where there is one; heads and copies are passed over
torchxrayvision  its DenseNets (224 px) and ResNet-50 (512 px), of one channel; its pixels run from
                 -1024 to 1024. The DenseNet files that it downloads hold a pickled module, which
                 is refused: with torchxrayvision installed, `torch.save(torch.load(FILE,
                 weights_only=False).state_dict(), "weights.pt")`, if you trust it
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import errors_naming, strip_prefix
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers._cnn import CLASSIFIERS, IMAGENET, cnn_encoder, is_densenet
from cxr_jax.weights.importers._towers import read_gloria
from cxr_jax.weights.importers.vits import load_torchvision


class Kind(NamedTuple):
    """A publisher's files.

    Attributes:
      container: under which a training's checkpoint may hold its weights.
      prefixes: the encoder's keys begin with the first of these that any key has.
      beside: how the keys of what else a file holds begin, which is passed over.
      heads: how the encoder's own keys begin behind the features.
      pixels: mean and deviation.
      fields: of the model, which keys do not tell.
    """

    container: str = ""
    prefixes: tuple[str, ...] = ("",)
    beside: tuple[str, ...] = ()
    heads: tuple[str, ...] = CLASSIFIERS
    image_size: int = 224
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    fit: str = "crop"
    fields: Mapping[str, Any] = MappingProxyType({})


def load_kind(path: str | Path, kind: Kind) -> Encoder:
    """Reads the encoder; every key must be used, or be passed over as `kind` says."""
    arrays = read_arrays(path, containers=(kind.container,))
    with errors_naming(path):
        arrays = strip_prefix(arrays, kind.prefixes, kind.beside)
    return cnn_encoder(
        path, arrays, kind.image_size, *kind.pixels, kind.heads, kind.fit, **kind.fields
    )


def load_gloria(path: str | Path) -> Encoder:
    """Reads the image encoder; beside it the text's, if it is there, when asked for."""
    encoder = load_kind(path, _GLORIAS)
    word = "gloria.text_encoder.model.embeddings.word_embeddings.weight"
    has_text = word in read_arrays(path, containers=("state_dict",))
    return encoder._replace(text=partial(read_gloria, path) if has_text else None)


def load_torchvisions(path: str | Path) -> Encoder:
    """Reads a ViT or a CNN."""
    arrays = read_arrays(path)
    is_vit = any(f".{key}".endswith(".conv_proj.weight") for key in arrays)
    return load_torchvision(path) if is_vit else cnn_encoder(path, arrays)


def load_torchxrayvision(path: str | Path) -> Encoder:
    """Reads the encoder; a ResNet's keys may begin with `model.`, as its module's do.

    The classifier and its thresholds, `op_threshs`, are passed over.
    """
    arrays = read_arrays(path)
    with errors_naming(path):
        arrays = strip_prefix(arrays, ("model.", ""), ("op_threshs",))
    size, heads = 224 if is_densenet(arrays) else 512, (*CLASSIFIERS, "op_threshs")
    return cnn_encoder(path, arrays, size, (0.5,), (0.5 / 1024,), heads)


def load_lightly(path: str | Path) -> Encoder:
    """Reads the encoder; its modules may have numbers for names, those of a ResNet's children."""
    names = {"0": "conv1", "1": "bn1", **{str(stage + 3): f"layer{stage}" for stage in range(1, 5)}}
    arrays = read_arrays(path, containers=("state_dict",))
    with errors_naming(path):
        backbones = ("teacher_backbone.", "backbone.", "student_backbone.")
        arrays = strip_prefix(arrays, backbones, _LIGHTLYS_OTHERS)
    arrays = {
        re.sub(r"^\d+", lambda m: names.get(m[0], m[0]), key): array
        for key, array in arrays.items()
    }
    return cnn_encoder(path, arrays)


_LIGHTLYS_OTHERS = (
    *("projection_head", "prediction_head", "backbone_momentum.", "student_", "teacher_"),
    *("prototypes", "criterion.", "queue", "online_classifier.", "start_queue_at_epoch"),
)
_MOCO = Kind(
    "state_dict",
    ("module.encoder_q.", "encoder_q."),
    tuple(f"{module}{name}" for module in ("module.", "") for name in ("encoder_k.", "queue")),
    ("fc.", "classifier.", "classifier_group."),
)
_GLORIA = "gloria.img_encoder."
_HALF = (0.5,) * 3
_GLORIAS = Kind(
    "state_dict",
    (f"{_GLORIA}model.",),
    ("gloria.text_encoder.", f"{_GLORIA}global_embedder.", f"{_GLORIA}local_embedder."),
    image_size=299,
    pixels=(_HALF, _HALF),
    fit="pad",
)
_KINDS = {
    "torchvision_v1": Kind(fields={"stride_in_1x1": True}),
    "moco": _MOCO,
    "moco_cxr": _MOCO._replace(image_size=320, pixels=((0.5020,) * 3, (0.085585,) * 3)),
    "s2mts2": _MOCO._replace(fields={"negative_slope": 0.1}),
    "convirt": Kind("image_encoder"),
    "biovil": Kind(
        "state_dict",
        ("encoder.encoder.",),
        (
            *("encoder.backbone_to_vit.", "encoder.vit_pooler.", "encoder.missing_previous_emb"),
            *("projector.", "classifier."),
        ),
        image_size=448,
        pixels=((0.0,) * 3, (1.0,) * 3),
    ),
}
SOURCES = {
    "torchvision": load_torchvisions,
    "gloria": load_gloria,
    "lightly": load_lightly,
    "torchxrayvision": load_torchxrayvision,
    **{name: partial(load_kind, kind=kind) for name, kind in _KINDS.items()},
}
