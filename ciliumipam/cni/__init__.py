"""The CNI IPAM plugin `ciliumipam-cni`: addresses for pods out of the blocks of a node, kept in one SQLite file.

It speaks version 1.1 of the CNI specification (ADD, DEL, CHECK, GC, STATUS, VERSION) and answers in 0.3.0 to 1.1.0. A runtime starts a
process for each call, so what these modules load is what a pod waits for: nothing of the command, of Kubernetes or of the testing kit,
and neither `argparse` nor `logging`. `docs/reference/cni.md` has the configuration and the codes.

* `plugin`: a call from its environment and input to its answer
* `config`: what stands in the network's configuration and in CNI_ARGS
* `node_store`: the store of the node, and its blocks where the configuration names them
* `result`, `faults`: what is answered, in the form of each version
* `install`, `host_local`: what `ciliumipam-cni install`, `from-host-local` and `to-host-local` do
"""
