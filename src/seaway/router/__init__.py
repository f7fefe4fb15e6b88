"""The router: table of routes, Envoy resources, delta xDS, and the relay beside each Envoy."""
