"""Request processing that GraphQL resolvers and REST handlers share."""
