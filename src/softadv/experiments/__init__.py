"""Experiments: specs, grids, executors, run folders, results and the stored reference."""
