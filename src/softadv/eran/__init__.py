"""ERAN and GPUPoly, asked in a process of their own."""

from softadv.eran.bridge import Bridge, EngineReport, available, certify_with
from softadv.eran.protocol import ENGINES, EngineName, Offer

__all__ = ["ENGINES", "Bridge", "EngineName", "EngineReport", "Offer", "available", "certify_with"]
