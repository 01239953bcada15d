"""Early stopping: when to stop, and which weights to restore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from softadv.training.records import EpochMetrics


def final_epoch(epochs: Sequence[EpochMetrics], *, patience: int | None) -> EpochMetrics:
    """The epoch whose weights a training ends with: the last, or with early stopping the best, of equals the first."""
    if patience is None:
        return epochs[-1]
    evaluated = [epoch for epoch in epochs if epoch.validation_adversarial_accuracy is not None]
    return max(evaluated, key=lambda epoch: epoch.validation_adversarial_accuracy or 0.0)


@dataclass
class Best:
    """The best epoch so far by adversarial accuracy on the validation images. epoch: 0 before the first.

    patience: stop after so many epochs without a better one.
    """

    patience: int
    epoch: int = 0
    accuracy: float = -1.0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def look(self, model: nn.Module, *, epoch: int, accuracy: float) -> None:
        """Keep an epoch's weights if it is better than all earlier ones; a tie keeps the earlier epoch."""
        if accuracy > self.accuracy:
            self.epoch, self.accuracy = epoch, accuracy
            self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def is_stale(self, *, epoch: int) -> bool:
        """Whether `patience` epochs have passed without a better one."""
        return epoch - self.epoch >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Load the best weights into the model."""
        model.load_state_dict(self.weights)
