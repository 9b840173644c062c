"""ring-metrics: ring events to the Prometheus metrics of the seed."""
