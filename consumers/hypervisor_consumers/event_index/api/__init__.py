"""The HTTP API: from query parameters to JSON responses."""
