"""A ViT in PyTorch, and its state dict under the key names of each publisher."""

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    def __init__(self, width, heads, eps, layer_scale, quick):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scales = nn.ParameterList(torch.randn(width) for _ in range(2 * layer_scale))
        self.quick = quick

    def forward(self, x):
        y = self.attn(self.norm1(x))
        x = x + (y * self.scales[0] if self.scales else y)
        y = self.fc1(self.norm2(x))
        y = self.fc2(y * torch.sigmoid(1.702 * y) if self.quick else F.gelu(y))
        return x + (y * self.scales[1] if self.scales else y)


class ViT(nn.Module):
    """`clip`: pre-norm, quick GELU, projection to 32. `pooling`: "class", "mean" or "fc_norm"."""

    def __init__(
        self,
        *,
        width=64,
        depth=2,
        patch=8,
        grid=4,
        registers=0,
        layer_scale=False,
        clip=False,
        class_token=True,
        pooling="class",
        eps=1e-6,
        heads=0,
    ):
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, width, patch, patch, bias=not clip)
        self.grid, self.pooling, self.clip = grid, pooling, clip
        self.cls = nn.Parameter(torch.randn(int(class_token), width))
        self.registers = nn.Parameter(torch.randn(registers, width))
        self.positions = nn.Parameter(torch.randn(class_token + grid**2, width))
        self.pre = nn.LayerNorm(width, eps) if clip else nn.Identity()
        kind = (width, heads or width // 64, eps, layer_scale, clip)
        self.blocks = nn.ModuleList(Block(*kind) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps)
        self.out = nn.Parameter(torch.randn(width, 32) / 8) if clip else None
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)

    def features(self, grey, mean, std):
        mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
        x = self.patch((grey.repeat(1, 3, 1, 1) - mean) / std)
        size = x.shape[2:]
        first, places = self.positions[: len(self.cls)], self.positions[len(self.cls) :]
        places = places.T.reshape(1, -1, self.grid, self.grid)
        if size != (self.grid, self.grid):
            # transformers antialiases where there are registers.
            places = F.interpolate(places, size, mode="bicubic", antialias=len(self.registers) > 0)
        x = (x + places).flatten(2).transpose(1, 2)
        prefix = torch.cat([self.cls + first, self.registers]).expand(len(x), -1, -1)
        x = self.pre(torch.cat([prefix, x], dim=1))
        for block in self.blocks:
            x = block(x)
        if self.pooling == "class":
            x = self.norm(x)[:, 0]
        elif self.pooling == "mean":
            x = self.norm(x)[:, prefix.shape[1] :].mean(1)
        else:
            x = self.norm(x[:, prefix.shape[1] :].mean(1))
        return x @ self.out if self.clip else x


def _pair(module, name):
    return {f"{name}.{leaf}": value for leaf, value in module.state_dict().items()}


def _thirds(linear, names):
    halves = zip(names, linear.weight.chunk(3), linear.bias.chunk(3))
    return {f"{n}.{leaf}": t for n, w, b in halves for leaf, t in (("weight", w), ("bias", b))}


def _plain(tensors):
    return {key: tensor.detach().clone() for key, tensor in tensors.items()}


def timm(net, has_place=True):
    if not has_place:
        net.positions.data[: len(net.cls)] = 0
    positions = net.positions if has_place else net.positions[len(net.cls) :]
    tensors = {"pos_embed": positions[None]}
    if len(net.cls):
        tensors["cls_token"] = net.cls[None]
    if len(net.registers):
        tensors["reg_token"] = net.registers[None]
    norm = "fc_norm" if net.pooling == "fc_norm" else "norm"
    tensors |= _pair(net.patch, "patch_embed.proj") | _pair(net.norm, norm)
    for i, block in enumerate(net.blocks):
        name = f"blocks.{i}."
        tensors |= _pair(block.norm1, name + "norm1") | _pair(block.norm2, name + "norm2")
        tensors |= _pair(block.attn, name + "attn")
        tensors |= _pair(block.fc1, name + "mlp.fc1") | _pair(block.fc2, name + "mlp.fc2")
        tensors |= {f"{name}ls{j}.gamma": scale for j, scale in enumerate(block.scales, 1)}
    return _plain(tensors)


def torchvision(net, first="0", second="3"):
    tensors = {"class_token": net.cls[None], "encoder.pos_embedding": net.positions[None]}
    tensors |= _pair(net.patch, "conv_proj") | _pair(net.norm, "encoder.ln")
    for i, block in enumerate(net.blocks):
        name = f"encoder.layers.encoder_layer_{i}."
        tensors |= _pair(block.norm1, name + "ln_1") | _pair(block.norm2, name + "ln_2")
        tensors[name + "self_attention.in_proj_weight"] = block.attn.qkv.weight
        tensors[name + "self_attention.in_proj_bias"] = block.attn.qkv.bias
        tensors |= _pair(block.attn.proj, name + "self_attention.out_proj")
        tensors |= _pair(block.fc1, f"{name}mlp.{first}") | _pair(block.fc2, f"{name}mlp.{second}")
    return _plain(tensors)


def openai_clip(net):
    tensors = {
        "visual.class_embedding": net.cls[0],
        "visual.positional_embedding": net.positions,
        "visual.proj": net.out,
        "text_projection": torch.randn(8, 32),
        "logit_scale": torch.tensor(4.6),
        "token_embedding.weight": torch.randn(9, 8),
        "transformer.resblocks.0.ln_1.weight": torch.randn(8),
    }
    tensors |= _pair(net.patch, "visual.conv1") | _pair(net.pre, "visual.ln_pre")
    tensors |= _pair(net.norm, "visual.ln_post")
    for i, block in enumerate(net.blocks):
        name = f"visual.transformer.resblocks.{i}."
        tensors |= _pair(block.norm1, name + "ln_1") | _pair(block.norm2, name + "ln_2")
        tensors[name + "attn.in_proj_weight"] = block.attn.qkv.weight
        tensors[name + "attn.in_proj_bias"] = block.attn.qkv.bias
        tensors |= _pair(block.attn.proj, name + "attn.out_proj")
        tensors |= _pair(block.fc1, name + "mlp.c_fc") | _pair(block.fc2, name + "mlp.c_proj")
    return _plain(tensors)


def hugging_face_dinov2(net):
    tensors = {
        "embeddings.cls_token": net.cls[None],
        "embeddings.mask_token": torch.zeros(1, net.cls.shape[1]),
        "embeddings.position_embeddings": net.positions[None],
    }
    if len(net.registers):
        tensors["embeddings.register_tokens"] = net.registers[None]
    tensors |= _pair(net.patch, "embeddings.patch_embeddings.projection")
    tensors |= _pair(net.norm, "layernorm")
    for i, block in enumerate(net.blocks):
        name = f"encoder.layer.{i}."
        tensors |= _pair(block.norm1, name + "norm1") | _pair(block.norm2, name + "norm2")
        attention = name + "attention.attention."
        tensors |= _thirds(block.attn.qkv, [attention + n for n in ("query", "key", "value")])
        tensors |= _pair(block.attn.proj, name + "attention.output.dense")
        tensors |= _pair(block.fc1, name + "mlp.fc1") | _pair(block.fc2, name + "mlp.fc2")
        tensors |= {f"{name}layer_scale{j}.lambda1": s for j, s in enumerate(block.scales, 1)}
    return _plain(tensors)


def refers(net):
    embeddings = "transformer.embeddings."
    tensors = {
        embeddings + "cls_token": net.cls[None],
        embeddings + "position_embeddings": net.positions[None],
        "head.weight": torch.randn(5, 64),
        "head.bias": torch.randn(5),
    }
    tensors |= _pair(net.patch, embeddings + "patch_embeddings")
    tensors |= _pair(net.norm, "transformer.encoder.encoder_norm")
    for i, block in enumerate(net.blocks):
        name = f"transformer.encoder.layer.{i}."
        tensors |= _pair(block.norm1, name + "attention_norm")
        tensors |= _pair(block.norm2, name + "ffn_norm")
        names = [f"{name}attn.{n}" for n in ("query", "key", "value")]
        tensors |= _thirds(block.attn.qkv, names) | _pair(block.attn.proj, name + "attn.out")
        tensors |= _pair(block.fc1, name + "ffn.fc1") | _pair(block.fc2, name + "ffn.fc2")
    return _plain(tensors)
