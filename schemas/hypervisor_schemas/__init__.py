"""The contract between agents and services: events, topics, wire format, settings. Imports neither side."""
