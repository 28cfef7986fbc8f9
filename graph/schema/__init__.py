"""The GraphQL schema: scalars, types, arguments and operations."""
