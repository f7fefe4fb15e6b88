"""Puts Seaway itself into a Kubernetes cluster: `seaway install` and `seaway uninstall`."""
