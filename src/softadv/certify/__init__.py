"""Certification: proof that a model classifies every point of a box as the label y."""

from softadv.certify.api import EFFORTS, ROUNDINGS, Certificates, Effort, Rounding, certify
from softadv.certify.domains import DOMAINS, Domain
from softadv.certify.layers import register_activation
from softadv.certify.operators import Activation

__all__ = [
    "DOMAINS",
    "EFFORTS",
    "ROUNDINGS",
    "Activation",
    "Certificates",
    "Domain",
    "Effort",
    "Rounding",
    "certify",
    "register_activation",
]
