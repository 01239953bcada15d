"""Kills and bad input, in the sizes of the documents: python -m benchmarks.campaign [kills|inputs] [--help]"""
