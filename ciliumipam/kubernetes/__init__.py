"""Kubernetes (extra `kubernetes`): the store, the operator, and what they say."""
