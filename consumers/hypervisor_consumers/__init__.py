"""The consumer services, each a pure fold, an output and its wiring on one shared runtime."""
