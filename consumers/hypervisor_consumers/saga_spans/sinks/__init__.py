"""Where the service's spans go: outputs named by `--sink`, each a module; `choose` makes them."""
