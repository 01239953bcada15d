"""ONNX files as PyTorch models: what is read, and how."""

from softadv._onnx.model import OnnxModel, read_onnx

__all__ = ["OnnxModel", "read_onnx"]
