"""The sinks of the service's spans, named by `--sink`: a module for each; `factory` makes them."""
