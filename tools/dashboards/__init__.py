"""The Grafana dashboards, built from code. `python -m tools.dashboards` writes their JSON.

The JSON is Grafana's classic form, which older versions read too; the newer schema is for Grafana 13 alone.
"""
