"""event-index: every event in a database, behind an HTTP query API."""
