"""What can be asked: scalars, types, arguments and the query."""
