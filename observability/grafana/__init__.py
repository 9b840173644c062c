"""The Grafana dashboards, built from code. `python -m observability.grafana` writes `dashboards/*.json`.

The JSON is Grafana's classic form (schema 1), which every Grafana from 10.1 on loads from a folder.
"""
