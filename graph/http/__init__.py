"""How the schema is reached: GraphQL over HTTP, the GraphiQL page, health."""
