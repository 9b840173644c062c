"""Queries to the index: what is asked of a database, and how answers are cut into pages."""
