"""`Value`: what never changes once it is made, and equals what has the same fields.

For classes that check what they are given or keep something worked out beside it; all others are named tuples. It is what a frozen
dataclass with slots is, without loading `dataclasses`: that takes longer than all that a one-shot call (`one_shot`) does.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, dataclass_transform


@dataclass_transform(frozen_default=True)
class Value:
    """Immutable, hashable; equal to a value of the same class with equal fields.

    A class declares its fields in the order of its constructor, which sets them by `_put`, and names them in `__slots__`. What begins
    with an underscore is worked out from the fields, and is none itself.
    """

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]] = ()
    _stored: ClassVar[tuple[str, ...]] = ()
    _key: ClassVar[attrgetter[Any]]
    _setters: ClassVar[tuple[Callable[[object, object], None], ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._stored = tuple(cls.__annotations__)
        cls._fields = tuple(name for name in cls._stored if not name.startswith("_"))
        cls._key = attrgetter(*cls._fields)
        cls._setters = tuple(cls.__dict__[name].__set__ for name in cls._stored)  # those of the slots, past `__setattr__`
        cls.__match_args__ = cls._fields  # type: ignore[attr-defined,misc]  # mypy works it out by itself

    def _put(self, *values: object) -> None:
        """Set everything, in the order in which it is declared."""
        for put, value in zip(self._setters, values, strict=True):
            put(self, value)

    def __eq__(self, other: object) -> bool:
        """Whether class and fields are the same."""
        if self is other:
            return True
        if not isinstance(other, Value) or type(other) is not type(self):
            return NotImplemented
        return bool(self._key(self) == self._key(other))

    def __hash__(self) -> int:
        """Equal values hash equal."""
        return hash(self._key(self))

    def __repr__(self) -> str:
        """The call that makes an equal value."""
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._fields)})"

    def __getstate__(self) -> tuple[object, ...]:
        """For `pickle` and `copy`."""
        return tuple(getattr(self, name) for name in self._stored)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self._put(*state)

    if not TYPE_CHECKING:  # pragma: no branch - a type checker knows that it is frozen, and takes a `__setattr__` for leave to set whatever one likes

        def __setattr__(self, name: str, value: object) -> NoReturn:
            raise AttributeError(f"{name!r} cannot be set: a {type(self).__name__} never changes; make another one")

        def __delattr__(self, name: str) -> NoReturn:
            raise AttributeError(f"{name!r} cannot be deleted: a {type(self).__name__} never changes; make another one")


__all__ = ["Value"]
