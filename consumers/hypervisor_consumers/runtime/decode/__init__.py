"""Batches of records to columns of events."""
