"""Specs, grids, run folders, results, and the stored reference."""
