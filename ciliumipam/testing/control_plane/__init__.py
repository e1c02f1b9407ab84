"""A real API server with its etcd, for tests and for play: no cluster, no controllers, no root, gone with who started it.

    with ScratchControlPlane(folder) as plane:      # about 3 s, 265 MB
        plane.kubectl("get", "namespaces")          # or any client with plane.kubeconfig
        plane.apiserver.kill()                      # restart, pause, resume; the same for plane.etcd
        plane.restore(plane.snapshot("monday"))

`shared` is one for several processes, and `fixtures` has it as a fixture for pytest. For people it is
`python -m ciliumipam.testing.control_plane`; `docs/how-to/try-it-on-a-scratch-cluster.md` shows it.
"""

from ciliumipam.testing.control_plane.access import ControlPlane, KubectlError, User
from ciliumipam.testing.control_plane.binaries import Binaries, ServersMissingError, find_binaries, skip_reason
from ciliumipam.testing.control_plane.scratch import ScratchControlPlane, shared
from ciliumipam.testing.control_plane.server import Server, ServerError

__all__ = [
    "Binaries",
    "ControlPlane",
    "KubectlError",
    "ScratchControlPlane",
    "Server",
    "ServerError",
    "ServersMissingError",
    "User",
    "find_binaries",
    "shared",
    "skip_reason",
]
