"""HTTP layer of the API: GraphQL over HTTP and WebSocket, REST, pages, health checks, middleware."""
