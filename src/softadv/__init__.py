"""softadv"""
