"""Certification: is every point of this box classified as y?"""

from softadv.certify.activations import Activation
from softadv.certify.api import ROUNDINGS, Certificates, Rounding, certify
from softadv.certify.domains import DOMAINS, Domain
from softadv.certify.layers import register_activation

__all__ = ["DOMAINS", "ROUNDINGS", "Activation", "Certificates", "Domain", "Rounding", "certify", "register_activation"]
