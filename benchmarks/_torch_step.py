"""The rival's training step: SimCLR or BYOL as a careful PyTorch script would write it.

As ours in network, weights at the start, loss, optimizer, batch from uint8 and augmentation on the
device; it leaves out our collapse monitors and gradient norm, which cost it nothing then.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from benchmarks._torch_augment import augment
from cxr_jax.config import Section


class SimCLR(nn.Module):
    def __init__(self, networks: nn.ModuleDict, config: Section):
        super().__init__()
        self.networks = networks
        self.views = [view.to_dict() for view in config["views"].values()]
        self.temperature = config["objective"]["temperature"]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [b 1 h w] -> the loss."""
        views = torch.cat([augment(images, view) for view in self.views])
        projections = self.networks["projector"](self.networks["encoder"](views))
        return nt_xent(projections.float(), self.temperature)

    def after_update(self, step: int) -> None:
        """Nothing follows the optimizer."""


class BYOL(nn.Module):
    def __init__(self, networks: nn.ModuleDict, target: nn.ModuleDict, config: Section):
        super().__init__()
        self.networks, self.target = networks, target.requires_grad_(False)
        self.views = [view.to_dict() for view in config["views"].values()]
        self.total, self.base = config["num_train_steps"], config["objective"]["tau_base"]
        online = [p for name in target for p in networks[name].parameters()]
        self._pair = (list(target.parameters()), online)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [b 1 h w] -> the loss."""
        predictions, targets = [], []
        for view in self.views:
            image = augment(images, view)
            projection = self.networks["projector"](self.networks["encoder"](image))
            predictions.append(self.networks["predictor"](projection).float())
            with torch.no_grad():
                targets.append(self.target["projector"](self.target["encoder"](image)).float())
        cosines = functional.cosine_similarity(predictions[0], targets[1])
        cosines = cosines + functional.cosine_similarity(predictions[1], targets[0])
        return (4 - 2 * cosines).mean()

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """The target network follows."""
        rate = (1 - self.base) * (math.cos(math.pi * min(step / self.total, 1)) + 1) / 2
        torch._foreach_lerp_(*self._pair, rate)


def nt_xent(projections: torch.Tensor, temperature: float) -> torch.Tensor:
    """Of [2n d], row i and row n + i a pair; see objectives.simclr.nt_xent."""
    z = functional.normalize(projections)
    n = len(z) // 2
    logits = (z @ z.T / temperature).fill_diagonal_(-1e9)
    pair = torch.arange(2 * n, device=z.device).roll(n)
    return functional.cross_entropy(logits, pair)


class LARS(torch.optim.Optimizer):
    """As cxr_jax.training.optim's: You et al., arXiv:1708.03888, with both places of the rate."""

    def __init__(self, groups: Sequence[dict], momentum: float, inside: bool, coefficient: float):
        super().__init__(groups, dict(lr=0.0, weight_decay=0.0))
        self._momentum, self._inside, self._coefficient = momentum, inside, coefficient

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            params = group["params"]
            gradients = [p.grad for p in params]
            if group["trust"]:
                gradients = torch._foreach_add(gradients, params, alpha=group["weight_decay"])
                sizes = torch.stack(torch._foreach_norm(params))
                slopes = torch.stack(torch._foreach_norm(gradients))
                known = (sizes > 0) & (slopes > 0)
                trust = torch.where(known, self._coefficient * sizes / slopes, 1.0)
                torch._foreach_mul_(gradients, list(trust.unbind()))
            buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
            torch._foreach_mul_(buffers, self._momentum)
            torch._foreach_add_(buffers, gradients, alpha=group["lr"] if self._inside else 1.0)
            torch._foreach_add_(params, buffers, alpha=-1.0 if self._inside else -group["lr"])


def make_optimizer(module: nn.Module, fields: Section) -> torch.optim.Optimizer:
    """That of config.optimizer, biases and norms excepted from decay and trust ratio."""
    trained = [p for p in module.parameters() if p.requires_grad]
    decay = fields.get("weight_decay", 0.0)
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay, "trust": True},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0, "trust": False},
    ]
    momentum = fields.get("momentum", 0.9)
    if fields["name"] == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999), fused=True)
    if fields["name"] == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, fused=True)
    inside, coefficient = fields["rate_inside_momentum"], fields.get("trust_coefficient", 0.001)
    return LARS(groups, momentum, inside, coefficient)


def make_step(
    module: SimCLR | BYOL,
    images: torch.Tensor,
    fields: Section,
    rates: Sequence[float],
    bfloat16: bool,
    compiled: bool,
    channels_last: bool,
) -> Callable[[], torch.Tensor]:
    """A function that makes one step on `images` (uint8 [b 1 h w], on the device of `module`).

    `fields` are config.optimizer's; `rates` the learning rates of the steps, repeated at the end.
    """
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = make_optimizer(module, fields)
    loss_of = torch.compile(module) if compiled else module
    count = 0

    def step() -> torch.Tensor:
        nonlocal count
        for group in optimizer.param_groups:
            group["lr"] = rates[min(count, len(rates) - 1)]
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            loss = loss_of(images)
        loss.backward()
        optimizer.step()
        module.after_update(count)
        count += 1
        return loss.detach()

    return step
