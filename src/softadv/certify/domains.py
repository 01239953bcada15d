"""The names of the abstract domains, and which certifier computes which."""

from __future__ import annotations

from typing import Literal, get_args

Domain = Literal["box", "deepzono", "deeppoly"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)
DOMAIN_DESCRIPTIONS: dict[Domain, str] = {
    "box": "an interval for each neuron: fast and coarse.",
    "deepzono": "zonotopes: affine forms in shared noise symbols, one more for each unstable ReLU.",
    "deeppoly": "a linear bound below and above each neuron, substituted back to the input: the most precise.",
}
Certifier = Literal["native", "gpupoly", "eran-deeppoly", "eran-deepzono"]
CERTIFIERS: tuple[Certifier, ...] = get_args(Certifier)
CERTIFIER_DOMAINS: dict[Certifier, tuple[Domain, ...]] = {
    "native": ("box", "deepzono", "deeppoly"),
    "gpupoly": ("deeppoly",),
    "eran-deeppoly": ("deeppoly",),
    "eran-deepzono": ("deepzono",),
}
