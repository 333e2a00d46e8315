"""async_timeout and sniffio on noria: two small libraries that many others stand on."""

import asyncio

import async_timeout
import pytest
import sniffio

from ecosystem.ground import OnNoria


def test_a_timeout_ends_what_waits_in_it_and_nothing_after_it(on_noria: OnNoria) -> None:
    async def main() -> None:
        for _ in range(10):
            with pytest.raises(TimeoutError):
                async with async_timeout.timeout(0.002) as timeout:
                    await asyncio.Event().wait()
            assert timeout.expired()
            await asyncio.sleep(0.002)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    on_noria(main())


def test_a_timeout_that_is_not_reached_leaves_no_trace(on_noria: OnNoria) -> None:
    async def main() -> None:
        async with async_timeout.timeout(0.005) as timeout:
            await asyncio.sleep(0)
        assert not timeout.expired()
        await asyncio.sleep(0.01)

    on_noria(main())


def test_of_two_nested_timeouts_the_earlier_one_expires(on_noria: OnNoria) -> None:
    async def main() -> None:
        async with async_timeout.timeout(60) as outer:
            with pytest.raises(TimeoutError):
                async with async_timeout.timeout(0.002) as inner:
                    await asyncio.Event().wait()
        assert (inner.expired(), outer.expired()) == (True, False)
        with pytest.raises(TimeoutError):
            async with async_timeout.timeout(0.002) as outer:
                async with async_timeout.timeout(60) as inner:
                    await asyncio.Event().wait()
        assert (inner.expired(), outer.expired()) == (False, True)

    on_noria(main())


def test_a_deadline_is_put_off_and_taken_away(on_noria: OnNoria) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with async_timeout.timeout(0.01) as timeout:
            timeout.update(loop.time() + 60)  # type: ignore[attr-defined]
            await asyncio.sleep(0.02)
            timeout.reject()  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError):
            async with async_timeout.timeout_at(loop.time() - 1):
                await asyncio.Event().wait()

    on_noria(main())


def test_a_cancellation_from_outside_is_not_taken_for_a_timeout(on_noria: OnNoria) -> None:
    async def main() -> None:
        async def wait() -> None:
            async with async_timeout.timeout(60):
                await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task

    on_noria(main())


def test_sniffio_sees_asyncio_in_every_task_and_nothing_outside(on_noria: OnNoria) -> None:
    async def main() -> None:
        assert sniffio.current_async_library() == "asyncio"
        assert await asyncio.create_task(in_task()) == "asyncio"

    async def in_task() -> str:
        await asyncio.sleep(0)
        return sniffio.current_async_library()

    on_noria(main())
    with pytest.raises(sniffio.AsyncLibraryNotFoundError):
        sniffio.current_async_library()
