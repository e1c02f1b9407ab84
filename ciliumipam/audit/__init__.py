"""The second opinion: every invariant of a store checked again from its raw records, by nothing that wrote them.

Shares no code with the ledger, the view or the protocol: it knows how pages, claims and keys are laid out and which rules hold
between them (`docs/explanation/ledger.md`), and follows the pages from the roots by itself. It only lists, it never writes, so it
may run beside writers. Each listing is one moment, but six listings are not: whatever looks wrong is looked at again until it
stands still, so that a call that is under way is no finding.

    look ─▶ tree: pages, slots, fences ─▶ claims: who may hold it ─▶ notices: what somebody may want to know
"""

from ciliumipam.audit.findings import Finding
from ciliumipam.audit.look import Audit, audit

__all__ = ["Audit", "Finding", "audit"]
