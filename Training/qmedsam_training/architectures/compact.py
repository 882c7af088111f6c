"""``qmedsam-compact``: SAM's shape (image encoder -> embedding, box prompt, two-way decoder) at about 1 GMAC a slice.

What differs from LiteMedSAM, and why:
    * dense 3 x 3 convolutions with ReLU instead of depthwise ones and window attention: int8 runs them near peak, and
      exact GELU over a stride-1 stem is two thirds of LiteMedSAM's elements (model facts 0.7);
    * the box also enters *densely*, as maps of where each pixel lies relative to the box: a small network does not have
      to learn localisation from two tokens;
    * the decoder is a two-level U around the two-way attention, so that the prompted object is looked at with context;
    * a predicted IoU per mask, trained, as the confidence;
    * more than a box can be said (``hints``): the mask of a neighbouring slice, the present mask, strokes that add and that
      remove, as maps at the logits' resolution, and what kind of box it is. Where nothing is said they are zero, and their
      convolutions have no bias: a box alone costs and answers as if they were not there.

The prompt is scale free (relative to the box), so the weights work at any input size that is a multiple of 32.
"""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from .attention import Attention
from .marks import KeptFloat
from .promptable import Promptable


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation (folded away before quantization) and ReLU."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False))
        self.add_module("norm", nn.BatchNorm2d(cout))
        if relu:
            self.add_module("act", nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvNorm(width, width)
        self.second = ConvNorm(width, width, relu=False)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.second(self.first(x)))


class ImageEncoder(nn.Module):
    """``B x 3 x S x S`` -> ``B x 2 embed x S/4 x S/4``.

    The first half of the channels is the top-down pyramid at stride 4; the second is the stride-2 feature map, folded
    (space to depth), which the decoder unfolds for sharp borders. One tensor, so that callers cache and pass one thing.
    """

    def __init__(self, widths: Tuple[int, ...], depths: Tuple[int, ...], embed: int) -> None:
        super().__init__()
        stem, *levels = widths
        self.stem = ConvNorm(3, stem, stride=2)
        self.skip = ConvNorm(stem, embed // 4, kernel=1)
        stages, previous = [], stem
        for width, depth in zip(levels, depths):
            stages.append(nn.Sequential(ConvNorm(previous, width, stride=2), *(Residual(width) for _ in range(depth))))
            previous = width
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList(ConvNorm(width, embed, kernel=1, relu=False) for width in levels)
        self.smooth = nn.ModuleList(Residual(embed) for _ in levels[:-1])
        self.fold = nn.PixelUnshuffle(2)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        fine = self.fold(self.skip(x))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        top = self.lateral[-1](maps[-1])
        for lateral, smooth, feature in zip(reversed(self.lateral[:-1]), reversed(self.smooth), reversed(maps[:-1])):
            top = smooth(lateral(feature) + self.up(top))
        return torch.cat([top, fine], dim=1)


class TwoWayBlock(nn.Module):
    """SAM's decoder block: tokens look at themselves, at the image, think, and the image looks back."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.token_to_image = Attention(width, heads)
        self.image_to_token = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))

    def forward(self, tokens: Tensor, image: Tensor, position: Tensor) -> Tuple[Tensor, Tensor]:
        tokens = self.norm1(tokens + self.self_attn(tokens, tokens, tokens))
        tokens = self.norm2(tokens + self.token_to_image(tokens, image + position, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.image_to_token(image + position, tokens, tokens))
        return tokens, image


class BoxPrompt(KeptFloat, nn.Module):
    """A prompt as tokens and as maps. Stays float when quantized.

    A box is tokens (its corners) and maps (every pixel's place relative to the box); hints are maps alone.

    Args:
        embed: channels of the maps' result, at stride 4.
        width: of a token.
        hints: channels of what is said beside the box; 0 for a network that takes boxes alone.
        kinds: how many kinds of boxes it tells apart.
        fine: channels at stride 2, where hints enter once more for sharp borders.
    """

    def __init__(self, embed: int, width: int, hints: int = 0, kinds: int = 0, fine: int = 0) -> None:
        super().__init__()
        self.width = width
        self.dense = nn.Sequential(nn.Conv2d(9, embed, 1), nn.ReLU(inplace=True), nn.Conv2d(embed, embed, 1))
        self.corner = nn.Sequential(nn.Linear(8, width), nn.ReLU(inplace=True), nn.Linear(width, 2 * width))
        if hints:
            self.hint = nn.Conv2d(hints, embed, 4, 2, 1, bias=False)
            self.hint_fine = nn.Conv2d(hints, fine, 3, padding=1, bias=False)
            self.kind = nn.Linear(kinds, embed + width, bias=False)
            for layer in (self.hint, self.hint_fine, self.kind):
                nn.init.zeros_(layer.weight)

    def forward(
        self, boxes: Tensor, grid: int, size: int, hints: Optional[Tensor] = None, kinds: Optional[Tensor] = None
    ) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
        """Tokens ``N x 2 x width``, maps ``N x embed x G x G`` and, with hints, ``N x fine x 2G x 2G``.

        Args:
            boxes: ``N x 4`` xyxy edges in network pixels (centres at integers) of an input of ``size`` pixels.
            grid: ``G``, side of the embedding.
            size: of the input.
            hints: ``N x hints x 2G x 2G``.
            kinds: ``N x kinds``, one of them 1, or all 0.
        """
        centers = (torch.arange(grid, dtype=boxes.dtype, device=boxes.device) + 0.5) * (size / grid) - 0.5
        lower, upper = boxes[:, :2], boxes[:, 2:]
        half = (upper - lower).clamp(min=1.0) / 2
        middle = (lower + upper) / 2
        # -1 and 1 on the box's sides; clamped so that pixels far away look alike
        # Added, not expanded: an Expand over a dynamic number of boxes is ten nodes in the exported graph, an addition one.
        plane = torch.zeros(1, grid, grid, dtype=boxes.dtype, device=boxes.device)
        x = ((centers[None, :] - middle[:, :1]) / half[:, :1]).clamp(-3, 3)[:, None, :] + plane
        y = ((centers[None, :] - middle[:, 1:]) / half[:, 1:]).clamp(-3, 3)[:, :, None] + plane
        relative = half / size
        wide = relative[:, :, None, None] + plane
        inside = torch.minimum(1 - x.abs(), 1 - y.abs())
        radius = (x * x + y * y).clamp(max=4)
        maps = torch.stack([x, y, x.abs(), y.abs(), radius, inside, (inside * 8).clamp(-1, 1), wide[:, 0], wide[:, 1]], dim=1)
        centre = middle / size * 2 - 1
        aspect = torch.log(half[:, :1] / half[:, 1:]).clamp(-3, 3)
        corners = torch.cat([centre, relative * 2, torch.log(relative * 2 + 1e-3), aspect, aspect.abs()], dim=1)
        first, act, last = self.dense
        tokens, flat, fine = self.corner[0](corners), first(maps), None
        if hints is not None and kinds is not None:
            kind = self.kind(kinds)
            embed = int(self.hint.out_channels)
            flat = flat + self.hint(hints) + kind[:, :embed, None, None]
            tokens = tokens + kind[:, embed:]
            fine = self.hint_fine(hints)
        tokens = self.corner[2](self.corner[1](tokens))
        return tokens.reshape(-1, 2, self.width), last(act(flat)), fine


class Position(KeptFloat, nn.Linear):
    """Where an image token lies. Depends on nothing but the grid, so there is nothing to gain from quantizing it."""


class MaskDecoder(nn.Module):
    """Embedding and prompt to mask logits at stride 2 and a predicted IoU, of one mask or of several candidates."""

    def __init__(
        self,
        embed: int,
        width: int,
        deep: int,
        heads: int = 4,
        blocks: int = 2,
        hints: int = 0,
        kinds: int = 0,
        candidates: int = 1,
    ) -> None:
        super().__init__()
        self.embed, self.candidates = embed, candidates
        self.prompt = BoxPrompt(embed, width, hints, kinds, embed // 2)
        self.merge = Residual(embed)
        self.down = ConvNorm(embed, width, stride=2)
        self.context_down = nn.Sequential(ConvNorm(width, deep, stride=2), Residual(deep))
        self.context_up = ConvNorm(deep, width, kernel=1, relu=False)
        self.local = Residual(width)
        self.output_tokens = nn.Parameter(torch.randn(candidates + 1, width) * 0.02)  # the last one: how good they are
        self.position = Position(2, width)
        self.blocks = nn.ModuleList(TwoWayBlock(width, heads, 2 * width) for _ in range(blocks))
        self.lift = ConvNorm(width, embed, kernel=1, relu=False)
        self.refine = Residual(embed)
        self.unfold = nn.PixelShuffle(2)
        self.upscale = nn.ConvTranspose2d(embed, embed // 2, 2, 2)
        self.fine = ConvNorm(embed // 4, embed // 2, kernel=1, relu=False)
        self.sharpen = Residual(embed // 2)
        self.hyper = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, embed // 2 + 1))
        self.iou = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, candidates))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.act = nn.ReLU(inplace=True)

    def forward(
        self, embedding: Tensor, boxes: Tensor, hints: Optional[Tensor] = None, kinds: Optional[Tensor] = None
    ) -> Tuple[Tensor, Tensor]:
        """``embedding``: ``1 x 2 embed x G x G`` (or ``N x ...``, one per box); the rest as for :class:`BoxPrompt`.

        Returns:
            Logits ``N x C x 2G x 2G`` and IoU ``N x C``; of a network with one candidate without that axis.
        """
        grid = int(embedding.shape[-1])
        coarse, fine = embedding[:, : self.embed], embedding[:, self.embed :]
        prompt_tokens, dense, hinted = self.prompt(boxes, grid, grid * 4, hints, kinds)
        x = self.merge(coarse + dense)
        middle = self.down(x)
        middle = self.local(self.act(middle + self.up(self.context_up(self.context_down(middle)))))
        side = middle.shape[-1]  # not int(): as a constant of the exported graph, the positions would be stored, 150 KB
        axis = torch.linspace(-1, 1, side, dtype=boxes.dtype, device=boxes.device)
        place = torch.stack([axis[None, :].expand(side, side), axis[:, None].expand(side, side)], dim=-1)
        position = self.position(place.reshape(1, side * side, 2))
        tokens = torch.cat([self.output_tokens[None] + torch.zeros_like(prompt_tokens[:, :1]), prompt_tokens], dim=1)
        image = middle.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens, image = block(tokens, image, position)
        middle = image.transpose(1, 2).reshape(-1, int(image.shape[2]), int(side), int(side))
        x = self.refine(self.act(x + self.up(self.lift(middle))))
        x = self.upscale(x) + self.fine(self.unfold(fine))
        x = self.sharpen(self.act(x if hinted is None else x + hinted))
        count = self.candidates
        weights = self.hyper(tokens[:, :count])
        logits = (weights[:, :, :-1] @ x.flatten(2)).reshape(-1, count, 2 * grid, 2 * grid) + weights[:, :, -1:, None]
        quality = self.iou(tokens[:, count]).sigmoid()
        return (logits[:, 0], quality[:, 0]) if count == 1 else (logits, quality)


class CompactSAM(Promptable):
    """The shipped network."""

    def __init__(
        self,
        widths: Tuple[int, ...] = (24, 48, 96, 160, 160),
        depths: Tuple[int, ...] = (2, 2, 2, 1),
        embed: int = 64,
        width: int = 96,
        deep: int = 128,
        hints: int = 0,
        kinds: int = 0,
        candidates: int = 1,
        input_size: int = 160,
    ) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(widths, depths, embed)
        self.mask_decoder = MaskDecoder(embed, width, deep, hints=hints, kinds=kinds, candidates=candidates)
        self.hints, self.kinds, self.candidates = hints, kinds, candidates
        self.input_size = input_size

    @property
    def hint_side(self) -> int:
        """See :class:`Promptable`."""
        return self.input_size // 2

    def encode(self, image: Tensor) -> Tensor:
        """``B x 3 x S x S`` normalised images to ``B x C x S/4 x S/4`` embeddings."""
        return self.image_encoder(image)

    @torch.no_grad()
    def move_logits(self, by: float) -> None:
        """See :class:`Promptable`; the last weight that a token gives to the mask is its bias."""
        self.mask_decoder.hyper[-1].get_parameter("bias")[-1] += by

    def predict(
        self, embedding: Tensor, boxes: Tensor, hints: Optional[Tensor] = None, kinds: Optional[Tensor] = None
    ) -> Tuple[Tensor, Tensor]:
        """See :class:`Promptable`; logits are ``N (x C) x S/2 x S/2``."""
        return self.mask_decoder(embedding, boxes, hints, kinds)
