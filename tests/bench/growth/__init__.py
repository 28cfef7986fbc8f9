"""What a larger installation needs: partitions, a bridge to a message broker, and a cache in front of the API."""
