"""Generators of docs, contract, dashboards and chart examples, and checks of the house."""
