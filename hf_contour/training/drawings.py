"""Images of contours beside their drawings."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms
from torchvision.utils import make_grid, save_image


@torch.no_grad()
def draw_contours(
    model: nn.Module,
    samples: Iterable[dict[str, Tensor]],
    path: Path,
    *,
    image_mean: list[float],
    image_std: list[float],
) -> None:
    """Writes a PNG with a row for each sample: the image, the contours drawn by people, those of the model.

    Args:
        model: in evaluation mode; gives `logits` `(1, 1, H, W)`.
        samples: `pixel_values` `(3, H, W)` and `labels` `(H, W)`, of any sizes.
        path: the file to write; its folder is made.
        image_mean: what `pixel_values` were normalised with.
        image_std: as `image_mean`.
    """
    device = next(model.parameters()).device
    mean, std = torch.tensor(image_mean)[:, None, None], torch.tensor(image_std)[:, None, None]
    tiles: list[Tensor] = []
    for sample in samples:
        edge_probs = model(pixel_values=sample["pixel_values"][None].to(device)).logits[0, 0].float().sigmoid()
        image = (sample["pixel_values"] * std + mean).clamp(0, 1)
        drawing = sample["labels"].clamp(0, 1).expand_as(image)
        tiles += [image, 1 - drawing, 1 - edge_probs.cpu().expand_as(image)]  # black lines on white
    height, width = (max(tile.shape[side] for tile in tiles) for side in (1, 2))
    same_size = [
        transforms.pad(tile, [0, 0, width - tile.shape[2], height - tile.shape[1]], fill=[1.0]) for tile in tiles
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(make_grid(same_size, nrow=3, padding=2, pad_value=0.5), path)
