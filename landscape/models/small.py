"""Small nets for 8×8 and 28×28 images, on which a whole spectrum takes seconds."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from landscape.models.heads import make_head


class ConvNet(nn.Module):
    """Three 3×3 convolutions of width 16, 32, 32, each with BN and ReLU, then global average pool and head.

    The second and third convolution halve the image. With BatchNorm on purpose: it meets the same questions of policy
    as the large nets. 14,458 parameters for one input channel and 10 classes.
    """

    def __init__(self, num_classes: int, in_channels: int, head: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 32, 3, stride=2, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(32)
        self.head = make_head(head, 32, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, in_channels, H, W) to logits, or cosines, (N, C)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        return self.head(x.mean(dim=(2, 3)))


class Mlp(nn.Module):
    """Two hidden layers of 64 with ReLU, on the flattened image; no normalisation layers."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, head: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels * image_size**2, 64)
        self.fc2 = nn.Linear(64, 64)
        self.head = make_head(head, 64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, in_channels, image_size, image_size) to logits, or cosines, (N, C)."""
        x = F.relu(self.fc1(images.flatten(1)))
        return self.head(F.relu(self.fc2(x)))
