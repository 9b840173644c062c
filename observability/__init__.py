"""What watches the fleet: the configuration of Prometheus, and the dashboards of Grafana."""
