"""Governance events to counts and scores. Pure."""
