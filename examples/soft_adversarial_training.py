"""Soft adversarial training in one file: section 4 of Sharma and Narayan (2022), top to bottom.

    python examples/soft_adversarial_training.py

Plain PyTorch, and softadv.certify for the certifier. It trains the paper's MNIST network on scikit-learn's
handwritten digits for 6 epochs, under a minute on a laptop. softadv.train(method="soft") ends with the same weights.
"""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import softadv

EPS, ALPHA, STEPS = 0.1, 0.01, 20  # the ball's radius, and the attack's step size and number of steps
EPOCHS, BATCH_SIZE, LR, SEED = 6, 32, 1e-3, 0


def network() -> nn.Module:
    """Table 1 of the paper, for images of 28x28 pixels: 3,614 neurons."""
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2), nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(),
        nn.Flatten(),
        nn.Linear(800, 100), nn.ReLU(),
        nn.Linear(100, 10),
    )  # fmt: skip


def generator(epoch: int, purpose: str) -> torch.Generator:
    """Random numbers that depend on the seed, the epoch and the purpose: an epoch comes out the same by itself."""
    digest = hashlib.sha256(f"{SEED} {epoch} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


def pgd(model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    """Equation 3: steps of size alpha along the sign of the gradient, each cut to the ball and to [0, 1]."""
    lowest, highest = (x - EPS).clamp(min=0), (x + EPS).clamp(max=1)
    point = (x + torch.empty_like(x).uniform_(-EPS, EPS, generator=rng)).clamp(0, 1)
    for _ in range(STEPS):
        point.requires_grad_()
        loss = F.cross_entropy(model(point), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
        point = (point.detach() + ALPHA * gradient.sign()).clamp(lowest, highest)
    return point


def split(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which images to attack: those misclassified, or not verified on their whole ball. bool (N,)."""
    return ~softadv.certify(model, x, y, eps=EPS, domain="deeppoly").verified


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The fraction of images that is classified correctly."""
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def train(model: nn.Module, x: Tensor, y: Tensor, *, epochs: int = EPOCHS) -> None:
    """Before each epoch the certifier splits the training set; verified images are trained as they are."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for epoch in range(1, epochs + 1):
        attacked = split(model, x, y)
        order = torch.randperm(len(x), generator=generator(epoch, "order"))
        starts = generator(epoch, "attack")
        for batch in order.split(BATCH_SIZE):
            inputs, labels = x[batch], y[batch]
            chosen = attacked[batch]
            if chosen.any():
                inputs[chosen] = pgd(model, inputs[chosen], labels[chosen], starts)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        print(f"epoch {epoch}: {int(attacked.sum())} of {len(x)} images attacked")


def main() -> None:
    data = softadv.load_dataset("digits")
    model = network()
    train(model, data.train_x, data.train_y)
    x, y = data.test_x, data.test_y
    print(f"natural accuracy     {accuracy(model, x, y):.1%}")
    print(f"adversarial accuracy {accuracy(model, pgd(model, x, y, generator(EPOCHS, 'evaluation')), y):.1%}")
    print(f"certified accuracy   {softadv.certify(model, x, y, eps=EPS).verified.double().mean():.1%}")


if __name__ == "__main__":
    main()
