"""Reading ONNX files as PyTorch models."""

from softadv._onnx.model import OnnxModel, read_onnx

__all__ = ["OnnxModel", "read_onnx"]
