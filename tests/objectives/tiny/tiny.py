"""An encoder that compiles in no time: 8x8 blocks' means, linear, batch norm, ReLU.

tests/objectives/conftest.py puts this folder on the path of cxr_jax.models, which finds "tiny".
"""

from flax import linen as nn


class Tiny(nn.Module):
    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images, train):
        b, h, w, _ = images.shape
        x = images.reshape(b, h // 8, 8, w // 8, 8).mean(axis=(2, 4)).reshape(b, -1)
        x = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="dense")(x)
        x = nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype, name="bn")(x)
        return nn.relu(x)


def make(width, dtype="float32"):
    return Tiny(width, dtype)
