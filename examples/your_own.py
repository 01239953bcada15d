"""Your own data, network and training method with softadv, in 40 lines.

python examples/your_own.py
"""

import torch
from torch import nn

import softadv


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def stripes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy 8x8 images of horizontal (class 0) or vertical (class 1) stripes."""
    y = torch.arange(count) % 2
    wave = (torch.arange(8) % 2).float()
    clean = torch.where(y[:, None, None] == 1, wave.expand(8, 8), wave[:, None].expand(8, 8))
    return (0.7 * clean[:, None] + 0.3 * torch.rand(count, 1, 8, 8)).clamp(0, 1), y


@softadv.methods.register("every-second")
class EverySecond(softadv.methods.Method):
    """Attacks a random half of the images in each epoch."""

    title, color = "Every second image", "#8B4513"

    def attacked(self, epoch: softadv.methods.EpochStart) -> torch.Tensor:
        return torch.rand(len(epoch.y), generator=epoch.rng) < 0.5


torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), Block(8), nn.Flatten(), nn.Linear(72, 2))
train, test = stripes(512), stripes(128)
run = softadv.train(model, train, method="every-second", eps=0.05, epochs=3, seed=0)
print(f"last loss {run.history[-1].loss:.3f}")
print(softadv.evaluate(model, test, eps=0.05, attacks=["pgd"], certify=True))
