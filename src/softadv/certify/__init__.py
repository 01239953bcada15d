"""Certification: is every point of this box classified as y?"""

from softadv.certify.api import DOMAINS, Certificates, Domain, certify

__all__ = ["DOMAINS", "Certificates", "Domain", "certify"]
