"""EfficientSAM Ti and S: a plain ViT pretrained by masked imitation of SAM, and SAM's decoder with changes of its own.

Facts as in "EfficientSAM" (Xiong et al. 2023), names as in the public checkpoints. What differs from SAM: every token
attends to every other one (no windows, 4096 tokens), GELU in the decoder, residuals around both self attentions, positions
that stay in the tokens, prompts padded to six points, and of three masks the one with the highest predicted IoU.
"""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .marks import KeptFloat, SignedPoint, UnsignedPoint
from .promptable import Promptable
from .sam import GRID, WIDTH, RandomPositions, TwoWayLayer, TwoWayTransformer, image_positions, neck
from .vit import PatchEmbed

INPUT = 1024
#: Prompts always have this many points; a box fills two of them.
POINTS = 6
#: Tokens along a side when the encoder was pretrained, at 224 pixels; its positions are stored so, behind a class token's.
PRETRAINED = 14


class SelfAttention(nn.Module):
    """Global attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_point, self.k_point, self.v_point = SignedPoint(), SignedPoint(), SignedPoint()
        self.weight_point = UnsignedPoint()

    def forward(self, x: Tensor) -> Tensor:
        """``B x n x width``."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = self.weight_point(((self.q_point(q) @ self.k_point(k.transpose(2, 3))) * self.scale).softmax(dim=-1))
        return self.proj((weights @ self.v_point(v)).transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """``fc1``, GELU, ``fc2``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = SelfAttention(width, heads), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """``B x 3 x 1024 x 1024`` -> ``B x 256 x 64 x 64``."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        self.pos_embed = nn.Parameter(torch.zeros(1, PRETRAINED**2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.neck = neck(width)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        places = self.pos_embed[:, 1:].reshape(1, PRETRAINED, PRETRAINED, -1).permute(0, 3, 1, 2)
        places = interpolate(places, size=(GRID, GRID), mode="bicubic").permute(0, 2, 3, 1)
        x = (x + places).flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.neck(x.transpose(1, 2).reshape(x.shape[0], -1, GRID, GRID))


class PromptEncoder(KeptFloat, nn.Module):
    """A box as two corner tokens and four that say "nothing here"."""

    def __init__(self) -> None:
        super().__init__()
        self.pe_layer = RandomPositions(WIDTH // 2)
        self.invalid_points = nn.Embedding(1, WIDTH)
        self.point_embeddings = nn.Embedding(1, WIDTH)  # of single points: not used, but checkpoints have it
        self.bbox_top_left_embeddings = nn.Embedding(1, WIDTH)
        self.bbox_bottom_right_embeddings = nn.Embedding(1, WIDTH)

    def forward(self, boxes: Tensor) -> Tensor:
        """``N x 4`` xyxy network pixels to ``N x 6 x 256``."""
        corners = boxes.reshape(-1, 2, 2)
        absent = -torch.ones_like(corners)  # the place of a missing point is (-1, -1), encoded like any other
        places = self.pe_layer((torch.cat([corners, absent, absent], dim=1) + 0.5) / INPUT)
        kinds = [self.bbox_top_left_embeddings, self.bbox_bottom_right_embeddings, *[self.invalid_points] * (POINTS - 2)]
        return places + torch.cat([kind.weight for kind in kinds])


class Stack(nn.Module):
    """Linear layers with GELU between."""

    def __init__(self, cin: int, hidden: int, cout: int, depth: int) -> None:
        super().__init__()
        widths = [cin, *[hidden] * depth]
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(a, b), nn.GELU()) for a, b in zip(widths, widths[1:]))
        self.fc = nn.Linear(hidden, cout)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.fc(x)


class Layer(TwoWayLayer):
    """SAM's layer with another perceptron and other positions."""

    def __init__(self, first: bool) -> None:
        super().__init__(first)
        self.mlp = Stack(WIDTH, 2048, WIDTH, 1)

    def among_tokens(self, tokens: Tensor, token_pe: Tensor) -> Tensor:
        """Positions are added for good, into the values and the residual too, unlike SAM."""
        if not self.first:
            tokens = tokens + token_pe
        return tokens + self.self_attn(tokens, tokens, tokens)


class MaskDecoder(nn.Module):
    """Three masks, of which the best by its own judgement is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(Layer)
        self.iou_token = nn.Embedding(1, WIDTH)
        self.mask_tokens = nn.Embedding(4, WIDTH)
        self.final_output_upscaling_layers = nn.ModuleList(
            [
                nn.Sequential(nn.ConvTranspose2d(WIDTH, WIDTH // 4, 2, 2), nn.GroupNorm(1, WIDTH // 4), nn.GELU()),
                nn.Sequential(nn.ConvTranspose2d(WIDTH // 4, WIDTH // 8, 2, 2), nn.Identity(), nn.GELU()),
            ]
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Stack(WIDTH, WIDTH, WIDTH // 8, 2) for _ in range(4))
        self.iou_prediction_head = Stack(WIDTH, WIDTH, 4, 2)
        self.hyper_point, self.pixel_point = SignedPoint(), SignedPoint()

    def forward(self, embedding: Tensor, prompts: Tensor, positions: Tensor) -> Tuple[Tensor, Tensor]:
        """``embedding``: ``1 or N x 256 x 64 x 64``; ``prompts``: ``N x 6 x 256``."""
        count = prompts.shape[0]
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])[None].expand(count, -1, -1)
        image = embedding.flatten(2).transpose(1, 2)  # one for all boxes: broadcast, not copied
        tokens, image = self.transformer(torch.cat([tokens, prompts], dim=1), image, positions)
        pixels = image.transpose(1, 2).reshape(count, WIDTH, GRID, GRID)
        for layer in self.final_output_upscaling_layers:
            pixels = layer(pixels)
        # Mask 0 is for unambiguous prompts in SAM; EfficientSAM never uses it and sorts the other three by predicted IoU.
        confidence, best = self.iou_prediction_head(tokens[:, 0])[:, 1:].max(dim=1)
        weights = torch.stack([self.output_hypernetworks_mlps[n](tokens[:, 1 + n]) for n in (1, 2, 3)], dim=1)
        chosen = weights.gather(1, best[:, None, None].expand(-1, 1, WIDTH // 8))
        logits = self.hyper_point(chosen) @ self.pixel_point(pixels.flatten(2))
        return logits.reshape(count, 4 * GRID, 4 * GRID), confidence


class EfficientSam(Promptable):
    """Ti: width 192 and 3 heads; S: 384 and 6; both twelve blocks."""

    def __init__(self, width: int, heads: int, depth: int = 12) -> None:
        super().__init__()
        self.image_encoder = Encoder(width, heads, depth)
        self.prompt_encoder = PromptEncoder()
        self.mask_decoder = MaskDecoder()

    def encode(self, image: Tensor) -> Tensor:
        """``B x 3 x 1024 x 1024`` to ``B x 256 x 64 x 64``."""
        return self.image_encoder(image)

    def predict(self, embedding: Tensor, boxes: Tensor) -> Tuple[Tensor, Tensor]:
        """See :class:`Promptable`; logits are ``N x 256 x 256``."""
        return self.mask_decoder(embedding, self.prompt_encoder(boxes), image_positions(self.prompt_encoder.pe_layer))
