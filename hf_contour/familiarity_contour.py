"""How familiar an image is: how near its features lie to those of training images that the model remembers.

Shapes: B images, D features, N prototypes.
"""

import torch
from torch import Tensor, nn

NUM_NEIGHBOURS = 5


class Familiarity(nn.Module):
    """Prototypes, and the distance of features to the nearest of them.

    Args:
        num_prototypes: N.
        num_features: D.
    """

    prototypes: Tensor

    def __init__(self, num_prototypes: int, num_features: int):
        super().__init__()
        self.register_buffer("prototypes", torch.zeros(num_prototypes, num_features))

    def forward(self, features: Tensor) -> Tensor:
        """Features `(B, D)` of any length to distances `(B,)` in [0, 2]: the mean over the nearest prototypes."""
        return mean_distance(features, self.prototypes)


def mean_distance(features: Tensor, prototypes: Tensor) -> Tensor:
    """Mean distance of features `(B, D)`, brought to length 1, to their nearest prototypes `(N, D)`: `(B,)`."""
    features = nn.functional.normalize(features.float(), dim=1)
    cosines = features @ prototypes.float().T
    nearest = cosines.topk(min(NUM_NEIGHBOURS, len(prototypes)), dim=1).values
    return (2 - 2 * nearest).clamp_min(0).sqrt().mean(dim=1)


def choose_prototypes(features: Tensor, num_prototypes: int = 256, *, seed: int = 0) -> Tensor:
    """Chooses training features that lie far from one another, at random with a seed.

    Args:
        features: `(M, D)` of the training images.
        num_prototypes: N; all are taken where there are fewer.
        seed: of the choice.

    Returns:
        `(N, D)`, of length 1.

    Raises:
        ValueError: If there are no features, or they are not finite.

    Source: Arthur and Vassilvitskii, k-means++ (2007): each is drawn in proportion to its squared distance to those
        that have been chosen.
    """
    if features.ndim != 2 or len(features) == 0 or not torch.isfinite(features).all():
        raise ValueError(f"features are {tuple(features.shape)}; expected (images, features), all of them finite.")
    features = nn.functional.normalize(features.float(), dim=1)
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(features), (1,), generator=generator))]
    squared = torch.full((len(features),), torch.inf)
    for _ in range(min(num_prototypes, len(features)) - 1):
        squared = torch.minimum(squared, (features - features[chosen[-1]]).square().sum(dim=1).cpu())
        squared[chosen] = 0
        rest = squared if squared.sum() > 0 else torch.ones_like(squared)  # all alike: any of them
        chosen.append(int(torch.multinomial(rest, 1, generator=generator)))
    return features[chosen]


__all__ = ["Familiarity", "choose_prototypes", "mean_distance"]
