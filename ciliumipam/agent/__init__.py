"""The agent of a node: it sees that the node has blocks as it needs them, and may rely on those that it has."""

from ciliumipam.agent.source import BlockSource, Grant, Granted

__all__ = ["BlockSource", "Grant", "Granted"]
