"""Copies of recurrent states at page boundaries, by the digest of the page before the boundary."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from helix_mlx.recurrent.states import RecurrentStates


class Snapshots:
    """What lets a sequence begin behind known pages where layers are recurrent: their states there.

    A snapshot shares its arrays with whoever it came from. The least recently used goes first.

    Args:
        nbytes_most: what all snapshots together may take; 0 keeps none.
    """

    def __init__(self, nbytes_most: int) -> None:
        self.nbytes_most = nbytes_most
        self.nbytes = 0
        self._states: OrderedDict[tuple[int, bytes], RecurrentStates] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def put(self, model: int, digest: bytes, states: RecurrentStates) -> bool:
        """Keep the states of one sequence; nothing goes on from them in place.

        Returns:
            Whether there is room for any such snapshot at all.
        """
        if states.nbytes > self.nbytes_most:
            return False
        self.drop(model, digest)
        while self.nbytes + states.nbytes > self.nbytes_most:
            _, oldest = self._states.popitem(last=False)
            self.nbytes -= oldest.nbytes
        self._states[model, digest] = states.copy()
        self.nbytes += states.nbytes
        return True

    def get(self, model: int, digest: bytes) -> RecurrentStates:
        """States to go on from, which are there."""
        self._states.move_to_end((model, digest))
        return self._states[model, digest].copy()

    def deepest(self, model: int, digests: Sequence[bytes]) -> int:
        """How many of these pages, in the order of a sequence, lie before the last snapshot there is."""
        return next((n for n in range(len(digests), 0, -1) if (model, digests[n - 1]) in self._states), 0)

    def drop(self, model: int, digest: bytes) -> None:
        """Forget a snapshot, if there is one."""
        states = self._states.pop((model, digest), None)
        if states is not None:
            self.nbytes -= states.nbytes

    def clear(self) -> None:
        """Forget all."""
        self._states.clear()
        self.nbytes = 0
