"""Arrays with one row an animal that grow together. Pure."""

from __future__ import annotations


class AnimalRows:
    """Base of everything that is kept per animal: its attributes are numpy arrays, row = animal.

    A subclass makes them all in `__init__(capacity)` and has no other attributes.
    """

    def __init__(self, capacity: int) -> None:
        raise TypeError(f"{type(self).__name__} must make its arrays for {capacity} animals")

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` animals; old rows keep their numbers."""
        fresh = type(self)(capacity)
        for name, array in vars(self).items():
            getattr(fresh, name)[: len(array)] = array
        vars(self).update(vars(fresh))

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        return sum(array.nbytes for array in vars(self).values())
