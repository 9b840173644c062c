"""Health, HTTP, metrics and what else people and probes look at."""
