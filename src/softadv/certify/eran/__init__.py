"""ERAN and GPUPoly, each run in a separate process."""

from softadv.certify.eran.bridge import Bridge, EngineReport, available, certify_with
from softadv.certify.eran.protocol import ENGINES, NO_DEVICE, EngineName, Offer

__all__ = ["ENGINES", "NO_DEVICE", "Bridge", "EngineName", "EngineReport", "Offer", "available", "certify_with"]
