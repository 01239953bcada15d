"""Certification: is every point of this box classified as y?"""

from softadv.certify.analysis import DOMAINS, Domain
from softadv.certify.api import ROUNDINGS, Certificates, Rounding, certify

__all__ = ["DOMAINS", "ROUNDINGS", "Certificates", "Domain", "Rounding", "certify"]
