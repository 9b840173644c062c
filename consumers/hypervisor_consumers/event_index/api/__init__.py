"""The HTTP API: parameters in, answers out."""
