"""Training: methods, the loop, its state, the partition and evaluation, independent of grids."""
