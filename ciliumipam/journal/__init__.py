"""A journal of all that one `Ipam` decided over, and doing it again elsewhere.

`recording` keeps it (`JournaledIpam`), `lines` is its format, both ways; `replay` does again what it tells and stops at the first
divergence, on stores that answer what the journal says that they answered (`replay_store`). Nothing here is loaded by `import ciliumipam`.
"""

from ciliumipam.journal.recording import JournaledIpam

__all__ = ["JournaledIpam"]
