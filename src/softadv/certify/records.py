"""The records of a certification and of an exported model's comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from softadv._units import Count, Seconds, Several
from softadv.certify.domains import Domain
from softadv.errors import SoftadvError


@dataclass(frozen=True, kw_only=True)
class Certified:
    """How many of `images` test images a domain verified, and the seconds it took."""

    domain: Domain
    images: Several
    verified: Count
    seconds: Seconds
    certifier: str = ""  # its name, version and soundness

    def __post_init__(self) -> None:
        check_part("verified", self.verified, self.images)

    @property
    def accuracy(self) -> float:
        """Certified accuracy: the verified fraction of all images."""
        return self.verified / self.images


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How the exported model compares with PyTorch's on `images` test images, in onnxruntime.

    largest_difference: of an output, relative to it where it is above 1.
    """

    images: Several
    largest_difference: Annotated[float, Ge(0)]
    classes_equal: bool


def check_part(key: str, part: int, images: int) -> None:
    if part > images:
        raise SoftadvError(f"{key}: {part} of {images} images")
