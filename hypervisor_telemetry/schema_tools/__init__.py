"""The contract as files, and schemas in a registry."""
