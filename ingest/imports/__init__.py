"""Reads historical prices from files and from other databases, validates them and stages them.

Does not use the database of Tickgraph.
"""
