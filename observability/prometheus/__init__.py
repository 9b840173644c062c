"""Prometheus' configuration and rules; files that are made from the code are made by `make docs`."""
