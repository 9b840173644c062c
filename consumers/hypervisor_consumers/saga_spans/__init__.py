"""saga-spans: saga events to trace spans."""
