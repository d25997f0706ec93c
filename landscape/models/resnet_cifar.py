"""ResNets for 32×32 images: depth 6n + 2, widths 16, 32, 64, shortcuts without parameters.

Source: He et al., CVPR 2016, section 4.2 (option A); initialisation and cosine head are those of LDAM and Saddle.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.models.heads import make_head


class OptionAShortcut(nn.Module):
    """Shortcut without parameters: every second row and column, zeros for the new channels, half on each side."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + new_channels, ⌈H/2⌉, ⌈W/2⌉)."""
        before = self.new_channels // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.new_channels - before))


class BasicBlock(nn.Module):
    """ReLU(BN(conv(ReLU(BN(conv(x))))) + shortcut(x)), 3×3 convolutions without bias."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        widens = channels != in_channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2 if widens else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = OptionAShortcut(channels - in_channels) if widens else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H', W'), H' = H or, where the block widens, ⌈H/2⌉."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages of n basic blocks of width 16, 32, 64, global average pool, head on 64 features.

    Convolutions and a linear head's weight start Kaiming-normal (fan-in, ReLU gain).

    Args:
        blocks_per_stage: n; the depth is 6n + 2 (3, 5, 7, 9 for ResNet-20, 32, 44, 56).
        num_classes: C.
        in_channels: of the images.
        head: see :func:`landscape.models.make_head`.
    """

    def __init__(self, blocks_per_stage: int, num_classes: int, in_channels: int, head: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks_per_stage)
        self.layer2 = _stage(16, 32, blocks_per_stage)
        self.layer3 = _stage(32, 64, blocks_per_stage)
        self.head = make_head(head, 64, num_classes)
        _start_kaiming(self)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, in_channels, H, W) to logits, or cosines, (N, C)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.head(x.mean(dim=(2, 3)))


class BbnResNet32(nn.Module):
    """The backbone of TailCalibX's CIFAR tables: ResNet-32 whose last block stands twice, side by side; 128 features.

    Stages of 5, 5 and 4 blocks of width 16, 32, 64, then two blocks of width 64 on the same maps; their outputs are
    concatenated and pooled. Trained as one network: the two branches of BBN see the same images here.

    Args:
        num_classes: C.
        in_channels: of the images.
        head: see :func:`landscape.models.make_head`.

    Source: Zhou et al., CVPR 2020 (BBN); the use of it, Vigneswaran et al., ICVGIP 2021. That its shortcuts are those
    without parameters is recalled.
    """

    def __init__(self, num_classes: int, in_channels: int, head: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 5)
        self.layer2 = _stage(16, 32, 5)
        self.layer3 = _stage(32, 64, 4)
        self.branch1, self.branch2 = BasicBlock(64, 64), BasicBlock(64, 64)
        self.head = make_head(head, 128, num_classes)
        _start_kaiming(self)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, in_channels, H, W) to logits (N, C)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = torch.cat([self.branch1(x), self.branch2(x)], dim=1)
        return self.head(x.mean(dim=(2, 3)))


def _start_kaiming(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)


def _stage(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))
