"""The rival's augmentation: the same view (cxr_jax.augment.views) as PyTorch code usually makes it.

Crop, flip and rotation are one bilinear `grid_sample` for the batch (without antialiasing, which
ours has), the blur a grouped convolution with a kernel a tenth of the side, as in SimCLR.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional


def augment(images: torch.Tensor, view: Mapping[str, Any]) -> torch.Tensor:
    """One random view of every image: uint8 [b 1 h w] -> float32 [b 1 s s] in [0, 1]."""
    out = _crop(images.float() / 255, view)
    if view["blur_prob"] > 0:
        out = _blur(out, view)
    out = _jitter(out, view)
    if view["solarise_prob"] > 0:
        inverted = torch.where(out >= 0.5, 1 - out, out)
        out = torch.where(_uniform(out, 0, 1) < view["solarise_prob"], inverted, out)
    if view["noise"] > 0:
        deviation = _uniform(out, 0, view["noise"])
        out = (out + deviation * torch.randn_like(out)).clamp(0, 1)
    return out


def _uniform(like: torch.Tensor, low: float | int, high: float | int) -> torch.Tensor:
    """[b 1 1 1], one draw an image."""
    return torch.empty(len(like), 1, 1, 1, device=like.device).uniform_(low, high)


def _crop(images: torch.Tensor, view: Mapping[str, Any]) -> torch.Tensor:
    area = _uniform(images, *view["crop_scale"]).flatten()
    log_ratio = _uniform(images, *(math.log(edge) for edge in view["crop_ratio"])).flatten()
    height = (area / log_ratio.exp()).sqrt().clamp(max=1)
    width = (area * log_ratio.exp()).sqrt().clamp(max=1)
    y = (1 - height) * _uniform(images, -1, 1).flatten()
    x = (1 - width) * _uniform(images, -1, 1).flatten()
    side = torch.where(_uniform(images, 0, 1).flatten() < view["flip"], -width, width)
    angle = _uniform(images, -view["rotate"], view["rotate"]).flatten() * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            torch.stack([cos * side, -sin * height, cos * x - sin * y], dim=1),
            torch.stack([sin * side, cos * height, sin * x + cos * y], dim=1),
        ],
        dim=1,
    )
    shape = [len(images), 1, view["size"], view["size"]]
    grid = functional.affine_grid(theta, shape, align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _blur(images: torch.Tensor, view: Mapping[str, Any]) -> torch.Tensor:
    count, _, size, _ = images.shape
    radius = max(size // 20, 1)
    sigma = _uniform(images, *view["blur_sigma"])
    # An image that is not blurred has a kernel of one pixel.
    sigma = torch.where(_uniform(images, 0, 1) < view["blur_prob"], sigma, 0.05).clamp(min=0.05)
    offset = torch.arange(-radius, radius + 1, device=images.device)
    kernel = (-0.5 * (offset / sigma) ** 2).exp()
    kernel = kernel / kernel.sum(dim=-1, keepdim=True)  # [b 1 1 k]
    stacked = functional.pad(images.reshape(1, count, size, size), [radius] * 4, "replicate")
    stacked = functional.conv2d(stacked, kernel, groups=count)
    stacked = functional.conv2d(stacked, kernel.transpose(2, 3), groups=count)
    return stacked.reshape(count, 1, size, size)


def _jitter(images: torch.Tensor, view: Mapping[str, Any]) -> torch.Tensor:
    out = images
    if view["brightness"] > 0:
        out = (out * _factor(out, view["brightness"])).clamp(0, 1)
    if view["contrast"] > 0:
        mean = out.mean(dim=(2, 3), keepdim=True)
        out = (mean + (out - mean) * _factor(out, view["contrast"])).clamp(0, 1)
    if view["gamma"] > 0:
        bound = math.log1p(view["gamma"])
        out = out.clamp(0, 1) ** _uniform(out, -bound, bound).exp()
    return torch.where(_uniform(out, 0, 1) < view["jitter_prob"], out, images)


def _factor(like: torch.Tensor, strength: float) -> torch.Tensor:
    return _uniform(like, max(0.0, 1 - strength), 1 + strength)
