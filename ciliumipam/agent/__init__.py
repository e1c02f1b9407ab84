"""The agent of a node: it sees that the node has blocks as it needs them, and may rely on those that it has."""

from ciliumipam.agent.ledger_source import LedgerSource, SilentNodes
from ciliumipam.agent.node_agent import NodeAgent, Round
from ciliumipam.agent.source import BlockSource, Grant, Granted
from ciliumipam.agent.terms import Terms

__all__ = ["BlockSource", "Grant", "Granted", "LedgerSource", "NodeAgent", "Round", "SilentNodes", "Terms"]
