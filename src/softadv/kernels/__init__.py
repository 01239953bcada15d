"""Fast gradients and products: compiled C++ for CPUs, hand-derived PyTorch, CUDA graphs; PyTorch is the fallback."""
