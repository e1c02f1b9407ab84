"""Chooses steps by seeded chance, most of them near an edge: the range full, its last address free, a name that holds nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from random import Random
from typing import TypeVar

from ciliumipam.testing.torture.steps import Allocate, Release, Restart, Single, Step, Together, name_of_owner
from ciliumipam.testing.torture.trial import Trial

SingleT = TypeVar("SingleT", Allocate, Release)

_MANY = 40
"""Owners of a range that is too wide to be filled."""
_FILLED = 300
"""Ranges of up to so many addresses are filled."""


def length_of_round(random: Random, trial: Trial) -> int:
    """How many steps a range of this size deserves."""
    free = trial.oracle.free
    fillable = free if free <= _FILLED else 2 * _MANY
    return random.randrange(20, 60) + 3 * fillable


class Chooser:
    """Chooses the next step for what is known."""

    def __init__(self, random: Random, trial: Trial) -> None:
        """Begin with an empty range, and mostly by filling it."""
        self._random = random
        self._trial = trial
        oracle = trial.oracle
        claims = oracle.claims
        count = oracle.free if oracle.free <= _FILLED else _MANY
        self.owners = [name_of_owner(number) for number in range(6 if claims.again == "another" else count + 3)]
        self._filling = True
        self._rank = {owner: rank for rank, owner in enumerate(self.owners)}

    def choose(self) -> Step:
        """The next step."""
        random, oracle = self._random, self._trial.oracle
        doubtful = self._trial.doubtful
        if doubtful and random.random() < 0.5:  # whatever is answered, it is known then
            return Allocate(random.choice(doubtful), writer=self._writer())
        if not oracle.held:
            self._filling = True
        elif not oracle.free and random.random() < 0.3:
            self._filling = False
        elif random.random() < 0.02:
            self._filling = not self._filling
        choice = random.random()
        if choice < 0.03 and oracle.claims.restarts:
            return Restart()
        if choice < 0.15 and oracle.claims.writers == "at once":
            return self._together()
        return self._churn()

    def _churn(self) -> Step:
        kinds: Sequence[Callable[[], Single]] = (
            self._allocate_new,
            self._allocate_again,
            self._allocate_given,
            self._release_held,
            self._release_other,
        )
        weights = (60, 6, 14, 12, 6) if self._filling else (20, 6, 10, 55, 8)
        return self._random.choices(kinds, weights)[0]()

    # ------------------------------------------------------------------------------------------------- calls

    def _writer(self) -> int:
        return self._random.randrange(2) if self._trial.oracle.claims.writers != "one" else 0

    def _holders(self) -> list[str]:
        return sorted({holding.owner for holding in self._trial.oracle.held.values()}, key=self._rank.__getitem__)

    def _idle(self) -> str:
        """Somebody who holds nothing, or if everybody holds something, anybody."""
        holders = set(self._holders())
        return self._random.choice([each for each in self.owners if each not in holders] or self.owners)

    def _holder(self) -> str:
        return self._random.choice(self._holders() or self.owners)

    def _allocate_new(self) -> Allocate:
        return Allocate(self._idle(), writer=self._writer())

    def _allocate_again(self) -> Allocate:
        return Allocate(self._holder(), writer=self._writer())

    def _allocate_given(self) -> Allocate:
        if not self._trial.oracle.claims.given:
            return self._allocate_new()
        owner = self._idle() if self._random.random() < 0.8 else self._holder()
        return replace(self._aimed(Allocate(owner)), writer=self._writer())

    def _release_held(self) -> Release:
        return Release(self._holder(), writer=self._writer())

    def _release_other(self) -> Release:
        """Of nothing, of what was released before, of what another holds, or of what nobody can hold."""
        by = self._trial.oracle.claims.release_by
        if by == "owner" or self._random.random() < 0.3:
            return Release(self._idle(), writer=self._writer())
        return replace(self._aimed(Release(self._random.choice(self.owners))), writer=self._writer())

    def _aimed(self, call: SingleT) -> SingleT:
        """Names an address: taken, held before, its own, free, kept back, at an end, or outside."""
        random, oracle = self._random, self._trial.oracle
        choice = random.random()
        if choice < 0.15:
            return replace(call, of=self._holder())
        if choice < 0.35 and oracle.last:
            return replace(call, of=random.choice(sorted(oracle.last, key=self._rank.__getitem__)))
        if choice < 0.4:
            return replace(call, of=call.owner)
        low, high = int(oracle.network.network_address), int(oracle.network.broadcast_address)
        first = next(islice(oracle.free_numbers(), random.randrange(8), None), low)
        last = oracle.runs[-1][1] if oracle.runs else high
        number = random.choice((first, first, last, random.randint(low, high), low, high, low - 1, high + 1))
        return replace(call, address=oracle.address(number if 0 <= number < 2**oracle.network.max_prefixlen else low))

    def _together(self) -> Together:
        """Two writers at once: for one address, for one owner, for the last one, or one gives what the other takes."""
        random = self._random
        kinds: Sequence[Callable[[], Single]] = (self._allocate_new, self._allocate_new, self._allocate_given, self._release_held)
        one, two = random.choice(kinds)(), random.choice(kinds)()
        swap = random.random()
        if swap < 0.2:
            two = replace(two, owner=one.owner)
        elif swap < 0.35 and isinstance(two, Allocate):
            two = replace(two, address=one.address, of=one.of)
        return Together(replace(one, writer=0), replace(two, writer=1))
