"""netaddr's `IPSet` as an allocator, the way Neutron and NetBox use it: what is free is a set, the lowest is taken out, and put back.

As a program it answers the JSON lines of `ciliumipam torture`.
"""

from __future__ import annotations

from netaddr import IPAddress, IPNetwork, IPSet

from ciliumipam.testing.torture import CallRefusedError, Claims, RangeExhaustedError, hosts, serve
from ciliumipam.testing.torture.protocol import Address, Network, Run


class IPSetAllocator:
    claims = Claims(again="another", release_by="address", given=True)

    def __init__(self) -> None:
        self._network = IPNetwork("0.0.0.0/0")
        self._offer = IPSet()
        self._free = IPSet()

    def open(self, network: Network) -> list[Run]:
        runs = hosts(network)
        self._free = IPSet([IPNetwork(str(network))])
        kept = {network.network_address, network.broadcast_address} if network.num_addresses > 2 else set()
        for address in sorted(kept, key=int):
            self._free.remove(str(address))
        self._offer = self._free.copy()
        return runs

    def allocate(self, owner: str, address: Address | None) -> str:
        if address is None:
            lowest = next(iter(self._free), None)
            if lowest is None:
                raise RangeExhaustedError
        else:
            lowest = IPAddress(str(address))
            if lowest not in self._free:
                raise CallRefusedError(f"{lowest} is not free")
        self._free.remove(lowest)
        return str(lowest)

    def release(self, owner: str, address: Address | None) -> None:
        given = IPAddress(str(address))
        if given in self._free or given not in self._offer:
            raise CallRefusedError(f"{given} is not held")
        self._free.add(given)

    def close(self) -> None:
        pass


if __name__ == "__main__":
    serve(IPSetAllocator())
