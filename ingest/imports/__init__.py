"""Reads and validates historical prices of files and foreign tables. Does not use the database of Tickgraph."""
