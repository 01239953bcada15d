"""Fast gradients and products: compiled C++ for CPUs, PyTorch by hand, CUDA graphs; always with a plain fallback."""
