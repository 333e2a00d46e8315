"""`Condition`: two tasks hand a turn to each other."""

from __future__ import annotations

from typing import Any

from ...row import Program


async def condition(aio: Any, n: int) -> None:
    """Two tasks hand a turn to each other."""
    turn = 0
    changed = aio.Condition()

    async def play(me: int) -> None:
        nonlocal turn
        for _ in range(n // 2):
            async with changed:
                while turn != me:
                    await changed.wait()
                turn = 1 - me
                changed.notify()

    await aio.gather(play(0), play(1))


async def condition_trio(n: int) -> None:
    import trio

    turn = 0
    changed = trio.Condition()

    async def play(me: int) -> None:
        nonlocal turn
        for _ in range(n // 2):
            async with changed:
                while turn != me:
                    await changed.wait()
                turn = 1 - me
                changed.notify()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, 0)
        nursery.start_soon(play, 1)


ROWS = [
    Program(key="condition", title="condition, 2 tasks", run=condition, trio=condition_trio, batch=5_000),
]
