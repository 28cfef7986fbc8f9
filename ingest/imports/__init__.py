"""Reads historical prices of files; validates and stages those of files and of other databases.

Does not use the database of Tickgraph.
"""
