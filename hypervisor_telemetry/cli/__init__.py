"""The `hypervisor-telemetry` command."""
