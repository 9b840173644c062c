"""The state of rings as Prometheus families."""
