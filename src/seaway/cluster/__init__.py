"""Secured, highly available Kubernetes masters: what their machines need (`render`), and whether it is so (`check`)."""
