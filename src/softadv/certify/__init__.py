"""Certification: proof that a model classifies every point of a box as the label y."""

from softadv.certify.api import EFFORTS, ROUNDINGS, Certificates, Effort, Rounding, certify
from softadv.certify.domains import DOMAINS, Domain
from softadv.certify.layers import register_operator
from softadv.certify.operators import Activation, LinearOperator

__all__ = [
    "DOMAINS",
    "EFFORTS",
    "ROUNDINGS",
    "Activation",
    "Certificates",
    "Domain",
    "Effort",
    "LinearOperator",
    "Rounding",
    "certify",
    "register_operator",
]
