"""The test cluster: a real, highly available Kubernetes of three nodes on this machine."""
