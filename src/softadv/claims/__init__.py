"""Statistics and rules: finished runs in, verdicts on claims out."""
