"""Talking to a Kubernetes API server: configuration, ordinary calls, typed lists and watches.

`errors` what can go wrong, `config` where the cluster is, `client` ordinary calls, `structs` the fields that are
used, `listing` paged lists, `watching` watches that resume, `cache` both together as a live picture.
"""
