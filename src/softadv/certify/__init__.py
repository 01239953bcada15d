"""Certification: is every point of this box classified as y?"""

from softadv.certify.api import ROUNDINGS, Certificates, Rounding, certify
from softadv.certify.domains import DOMAINS, Domain

__all__ = ["DOMAINS", "ROUNDINGS", "Certificates", "Domain", "Rounding", "certify"]
