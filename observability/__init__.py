"""The configuration of Prometheus, and the dashboards of Grafana."""
