"""SAM's prompt encoder and mask decoder, with the public checkpoints' names; shared by LiteMedSAM, MedSAM and EfficientViT-SAM.

Facts as in the segment-anything publication (Kirillov et al. 2023). Only what a box prompt needs is computed: mask token
0, its hypernetwork and its predicted IoU; everything else is kept so that checkpoints load strictly.
"""

from __future__ import annotations

import math
from typing import Callable, Optional, Tuple

import torch
from torch import Tensor, nn

from .attention import Attention
from .marks import KeptFloat, SignedPoint
from .promptable import Promptable

WIDTH = 256
GRID = 64


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of ``B x C x H x W``."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        normal = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * normal + self.bias[:, None, None]


def neck(width: int) -> nn.Sequential:
    """From an encoder's channels to the embedding's: ``B x width x G x G`` to ``B x 256 x G x G``."""
    return nn.Sequential(
        nn.Conv2d(width, WIDTH, 1, bias=False),
        LayerNorm2d(WIDTH),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
        LayerNorm2d(WIDTH),
    )


class RandomPositions(nn.Module):
    """Positions as sines and cosines of random frequencies."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, unit: Tensor) -> Tensor:
        """``... x 2`` (x, y in 0..1) to ``... x 2 features``."""
        angle = (2 * unit - 1) @ self.positional_encoding_gaussian_matrix * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


def image_positions(encoding: RandomPositions) -> Tensor:
    """Of the embedding's pixels: ``1 x GRID**2 x 256``."""
    axis = (torch.arange(GRID, device=encoding.positional_encoding_gaussian_matrix.device) + 0.5) / GRID
    unit = torch.stack([axis[None, :].expand(GRID, GRID), axis[:, None].expand(GRID, GRID)], dim=-1)
    return encoding(unit.reshape(1, GRID * GRID, 2))


class PromptEncoder(KeptFloat, nn.Module):
    """A box as the tokens of its two corners; stays float (6,220 parameters, QMedSAM paper section 2.2).

    Args:
        side: of the frame that boxes are given in.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.pe_layer = RandomPositions(WIDTH // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, WIDTH) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, WIDTH)
        self.no_mask_embed = nn.Embedding(1, WIDTH)
        # Mask prompts are not used; the layers are here because checkpoints have them.
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 2, 2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, 2, 2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, WIDTH, 1),
        )

    def forward(self, boxes: Tensor) -> Tensor:
        """``N x 4`` xyxy to ``N x 2 x 256``."""
        corners = self.pe_layer((boxes.reshape(-1, 2, 2) + 0.5) / self.side)
        return corners + torch.stack([embedding.get_parameter("weight")[0] for embedding in self.point_embeddings[2:]])


class Mlp(nn.Module):
    """``lin1``, activation, ``lin2``."""

    def __init__(self, width: int, hidden: int, act: nn.Module) -> None:
        super().__init__()
        self.lin1, self.lin2, self.act = nn.Linear(width, hidden), nn.Linear(hidden, width), act

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x)))


class TwoWayLayer(nn.Module):
    """Tokens attend to themselves and to the image, think, and the image attends to the tokens."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(WIDTH, 8)
        self.cross_attn_token_to_image = Attention(WIDTH, 8, WIDTH // 2)
        self.cross_attn_image_to_token = Attention(WIDTH, 8, WIDTH // 2)
        self.mlp: nn.Module = Mlp(WIDTH, 2048, nn.ReLU())
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(WIDTH) for _ in range(4))

    def among_tokens(self, tokens: Tensor, token_pe: Tensor) -> Tensor:
        """The tokens after they looked at each other, not yet normalised."""
        if self.first:  # without positions and without a residual: the result *replaces* the tokens
            return self.self_attn(tokens, tokens, tokens)
        placed = tokens + token_pe
        return tokens + self.self_attn(placed, placed, tokens)

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> Tuple[Tensor, Tensor]:
        tokens = self.norm1(self.among_tokens(tokens, token_pe))
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, image + image_pe, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(image + image_pe, tokens + token_pe, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two layers and a last look of the tokens at the image."""

    def __init__(self, layer: Callable[[bool], TwoWayLayer] = TwoWayLayer) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer(True), layer(False)])
        self.final_attn_token_to_image = Attention(WIDTH, 8, WIDTH // 2)
        self.norm_final_attn = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor, image: Tensor, image_pe: Tensor) -> Tuple[Tensor, Tensor]:
        first = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, first, image_pe)
        tokens = tokens + self.final_attn_token_to_image(tokens + first, image + image_pe, image)
        return self.norm_final_attn(tokens), image


class ReluStack(nn.Module):
    """Three linear layers with ReLU between."""

    def __init__(self, cout: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, cout)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](self.layers[1](self.layers[0](x).relu()).relu())


class MaskDecoder(nn.Module):
    """SAM's decoder; of its four masks the first, as for every unambiguous prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer()
        self.iou_token = nn.Embedding(1, WIDTH)
        self.mask_tokens = nn.Embedding(4, WIDTH)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(WIDTH, WIDTH // 4, 2, 2),
            LayerNorm2d(WIDTH // 4),
            nn.GELU(),
            nn.ConvTranspose2d(WIDTH // 4, WIDTH // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(ReluStack(WIDTH // 8) for _ in range(4))
        self.iou_prediction_head = ReluStack(4)
        self.hyper_point, self.pixel_point = SignedPoint(), SignedPoint()

    def forward(self, embedding: Tensor, prompts: Tensor, no_mask: Tensor, positions: Tensor) -> Tuple[Tensor, Tensor]:
        """``embedding``: ``1 or N x 256 x 64 x 64``; ``prompts``: ``N x 2 x 256``."""
        count = prompts.shape[0]
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])[None].expand(count, -1, -1)
        # One image for all boxes as long as they ask the same of it (layer 0's keys, values and queries): broadcast, not copied.
        image = (embedding + no_mask[:, :, None, None]).flatten(2).transpose(1, 2)
        tokens, image = self.transformer(torch.cat([tokens, prompts], dim=1), image, positions)
        pixels = self.output_upscaling(image.transpose(1, 2).reshape(count, WIDTH, GRID, GRID))
        weights = self.hyper_point(self.output_hypernetworks_mlps[0](tokens[:, 1])[:, None])
        logits = weights @ self.pixel_point(pixels.flatten(2))
        return logits.reshape(count, 4 * GRID, 4 * GRID), self.iou_prediction_head(tokens[:, 0])[:, 0]


class Sam(Promptable):
    """An image encoder between SAM's other two parts.

    Args:
        image_encoder: ``B x 3 x S x S`` to ``B x 256 x 64 x 64``.
        input_size: ``S``.
        prompt_size: side of the frame of its boxes, where that is not ``S``.
    """

    def __init__(self, image_encoder: nn.Module, input_size: int, prompt_size: Optional[int] = None) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(prompt_size or input_size)
        self.prompt_scale = (prompt_size or input_size) / input_size
        self.mask_decoder = MaskDecoder()

    def encode(self, image: Tensor) -> Tensor:
        """``B x 3 x S x S`` to ``B x 256 x 64 x 64``."""
        return self.image_encoder(image)

    def predict(self, embedding: Tensor, boxes: Tensor) -> Tuple[Tensor, Tensor]:
        """See :class:`Promptable`; logits are ``N x 256 x 256``."""
        prompts, positions = self.prompt_encoder(boxes), image_positions(self.prompt_encoder.pe_layer)
        return self.mask_decoder(embedding, prompts, self.prompt_encoder.no_mask_embed.weight, positions)
