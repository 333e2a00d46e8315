"""Barrier: tasks wait for one another, then go on together. On a Condition of noria's."""

from __future__ import annotations

import asyncio.locks
import enum
from asyncio import BrokenBarrierError

from noria.sync.locks import Condition


class _State(enum.Enum):
    FILLING = "filling"  # waiting for the rest of the party
    DRAINING = "draining"  # complete; not everybody has left yet
    RESETTING = "resetting"  # reset() was called; not everybody has left yet
    BROKEN = "broken"


class Barrier(asyncio.locks.Barrier):
    """Where `parties` tasks wait for one another.

    Each calls `wait`; when the last one has come all go on, and the barrier serves again once they have left.
    `async with barrier as position:` waits at its beginning.

    parties: how many tasks. Raises ValueError if below 1.

    Derives from asyncio's class for `isinstance` alone; nothing of it is used.

    Source: asyncio.Barrier.
    """

    def __init__(self, parties: int) -> None:
        if parties < 1:
            raise ValueError("parties must be > 0")
        self._cond = Condition()  # notified whenever _state changes
        self._parties = parties
        self._state = _State.FILLING
        self._count = 0  # tasks inside wait()

    def __repr__(self) -> str:
        state = str(self._state.value)
        if not self.broken:
            state += f", waiters:{self.n_waiting}/{self.parties}"
        return f"<{object.__repr__(self)[1:-1]} [{state}]>"

    @property
    def parties(self) -> int:
        """How many tasks it waits for."""
        return self._parties

    @property
    def n_waiting(self) -> int:
        """How many wait now; 0 while they leave."""
        return self._count if self._state is _State.FILLING else 0

    @property
    def broken(self) -> bool:
        """Whether it was aborted."""
        return self._state is _State.BROKEN

    async def __aenter__(self) -> int:  # type: ignore[override]
        return await self.wait()

    async def __aexit__(self, *args: object) -> None:
        pass

    async def wait(self) -> int:
        """Wait for the others. Returns 0 to the first who came, up to parties - 1 to the last.

        Raises BrokenBarrierError if the barrier is broken, or is aborted or reset meanwhile.
        """
        async with self._cond:
            # Until those of the last time have left.
            await self._cond.wait_for(lambda: self._state not in (_State.DRAINING, _State.RESETTING))
            if self._state is _State.BROKEN:
                raise BrokenBarrierError("Barrier aborted")
            position = self._count
            self._count += 1
            try:
                if self._count == self._parties:
                    self._become(_State.DRAINING)
                else:
                    await self._cond.wait_for(lambda: self._state is not _State.FILLING)
                    if self._state in (_State.BROKEN, _State.RESETTING):
                        raise BrokenBarrierError("Abort or reset of barrier")
                return position
            finally:
                self._count -= 1
                if self._count == 0:
                    leaving = self._state in (_State.DRAINING, _State.RESETTING)
                    self._become(_State.FILLING if leaving else self._state)

    async def reset(self) -> None:
        """Start anew. Who waits gets BrokenBarrierError."""
        async with self._cond:
            self._become(_State.RESETTING if self._count else _State.FILLING)

    async def abort(self) -> None:
        """Break the barrier until the next `reset`. Who waits, and who comes, gets BrokenBarrierError."""
        async with self._cond:
            self._become(_State.BROKEN)

    def _become(self, state: _State) -> None:
        self._state = state
        self._cond.notify_all()
