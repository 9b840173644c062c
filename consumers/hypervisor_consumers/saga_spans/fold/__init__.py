"""Saga events to spans and open sagas. Pure."""
