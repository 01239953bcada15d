"""Runs and verdicts in; a page, tables and figures out."""
