"""Queries to the index: the SQL statements, and the pages that their results are cut into."""
