"""Records and nodes in a Kubernetes API server.

`transport` says what is needed of an HTTP client, `lightkube_transport` is the default one (extra `kubernetes`), `api` is the verbs of
Kubernetes with its errors made ours, `objects` turns records into objects and back, `store` is the `KubernetesStore` on top of them.
"""
