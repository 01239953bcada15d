"""Measurements, one file a question. Run from the checkout: `.venv/bin/python -m benchmarks.attack`."""
