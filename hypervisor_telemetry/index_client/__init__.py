"""Clients of the HTTP API of `event-index`."""
