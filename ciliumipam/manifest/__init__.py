"""Manifests to pools, nodes and blocks, and back: the shapes that users write, read from mappings. No YAML or JSON text in here.

One module a family of kinds, each a function from a mapping to items: `ours` (CIDRPool, CIDRBlock), `cilium` (CiliumNodeConfig,
CiliumPodIPPool, CiliumNode), `kubernetes` (Node, ClusterCIDR), `calico` (IPPool, with its expressions in `calico_selector`).
`reader` is the strict base of all, `document` chooses the function and reads lists, `export` writes everything in our own form.
"""

from ciliumipam.manifest.document import Item, Manifest, read_manifest, read_manifests
from ciliumipam.manifest.export import export
from ciliumipam.manifest.ours import API_VERSION, pool_to_manifest

__all__ = ["API_VERSION", "Item", "Manifest", "export", "pool_to_manifest", "read_manifest", "read_manifests"]
