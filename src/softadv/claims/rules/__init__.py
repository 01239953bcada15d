"""The rules that decide claims, by what they compare."""
