"""Calls of one `Downloader` that run at once have their limits together."""

import asyncio
import time
from contextlib import aclosing
from pathlib import Path

import noria
from get.fault_server import Exchange, FaultServer
from noria.get import Downloader
from noria.get.hosts import Hosts, Window

DEADLINE = 20.0  # seconds for what takes less than one


class Busy:
    """Answers after a while, and counts how many it answers at a time."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds
        self.active = self.most = 0
        self.seen: list[int] = []

    async def __call__(self, exchange: Exchange) -> None:
        self.active += 1
        self.most = max(self.most, self.active)
        await asyncio.sleep(self.seconds)
        self.seen.append(self.active)
        self.active -= 1
        await exchange.reply(b"x")


def test_downloads_at_once_share_the_limit_of_their_host(faults: FaultServer, tmp_path: Path) -> None:
    busy = Busy()
    urls = [faults.on(f"/{number}", busy) for number in range(60)]

    async def main() -> None:
        async with Downloader(tmp_path, per_host=3) as downloader, asyncio.timeout(DEADLINE):
            async with aclosing(downloader.download_all(urls[:20])) as results:
                single = [asyncio.create_task(downloader.download(url)) for url in urls[20:]]
                assert [result.error async for result in results] == [None] * 20
            assert [result.error for result in await asyncio.gather(*single)] == [None] * 40

    noria.run(main())
    assert busy.most == 3


def test_a_download_within_the_loop_over_others_gets_its_turn(faults: FaultServer, tmp_path: Path) -> None:
    """Though all workers of the outer call wait for this consumer, with jobs of the same host before them."""
    busy = Busy(0)
    urls = [faults.on(f"/{number}", busy) for number in range(40)]

    async def main() -> int:
        count = 0
        async with Downloader(tmp_path, per_host=1, concurrency=2) as downloader, asyncio.timeout(DEADLINE):
            async with aclosing(downloader.download_all(urls[::2])) as results:
                async for outer in results:
                    inner = await downloader.download(urls[urls.index(outer.url) + 1])
                    count += outer.ok and inner.ok
        return count

    assert noria.run(main()) == 20
    assert busy.most == 1


def test_what_one_download_found_out_holds_for_the_next(faults: FaultServer, tmp_path: Path) -> None:
    busy = Busy(0.2)

    async def overloaded(exchange: Exchange) -> None:
        if exchange.number < 4:
            await exchange.reply(b"", "503 Service Unavailable")
        else:
            await exchange.reply(b"x")

    async def main() -> None:
        async with (
            Downloader(tmp_path, adaptive=True, longest_wait=0.01) as downloader,
            asyncio.timeout(DEADLINE),
        ):
            assert (await downloader.download(faults.on("/first", overloaded))).attempts == 4
            urls = [faults.on(f"/{number}", busy) for number in range(4)]
            results = await asyncio.gather(*map(downloader.download, urls))
            assert [result.error for result in results] == [None] * 4

    noria.run(main())
    # The limit went from four to one, and to two by one success; without that, all four come at once.
    assert busy.seen[0] <= 2


def test_downloads_at_once_share_the_rate(faults: FaultServer, tmp_path: Path) -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.reply(b"x" * 50_000)

    urls = [faults.on(f"/{number}", reply) for number in range(4)]

    async def main() -> float:
        async with Downloader(tmp_path, rate=200_000) as downloader, asyncio.timeout(DEADLINE):
            start = time.monotonic()
            await asyncio.gather(*map(downloader.download, urls))
            return time.monotonic() - start

    assert noria.run(main()) > 0.7  # a second, less the burst of a quarter


class Job:
    def __init__(self, host: str) -> None:
        self.host = host


def test_a_job_given_to_somebody_who_goes_is_the_next_ones() -> None:
    async def main() -> None:
        hosts = Hosts(1, adaptive=False)
        first: Window[Job] = Window(4, hosts)
        second: Window[Job] = Window(4, hosts)
        one, two, three = Job("h"), Job("h"), Job("h")
        first.put(one)
        assert await first.take() is one
        first.put(two)
        second.put(three)
        gone, patient = asyncio.create_task(first.take()), asyncio.create_task(second.take())
        await asyncio.sleep(0)
        first.release(one)  # the room, and `two`, are given to `gone`
        gone.cancel()
        async with asyncio.timeout(DEADLINE):
            assert await patient is three
            second.release(three)
            assert await first.take() is two
        first.release(two)
        for window in (first, second):
            window.end()
            assert await window.take() is None
            window.close()
        assert hosts._hosts == {}

    noria.run(main())


def test_what_a_closed_window_had_waiting_takes_no_room() -> None:
    async def main() -> None:
        hosts = Hosts(1, adaptive=False)
        closed: Window[Job] = Window(4, hosts)
        other: Window[Job] = Window(4, hosts)
        taken, left, wanted = Job("h"), Job("h"), Job("h")
        closed.put(taken)
        assert await closed.take() is taken
        closed.put(left)
        other.put(wanted)
        closed.release(taken)
        closed.close()
        async with asyncio.timeout(DEADLINE):
            assert await other.take() is wanted
        other.release(wanted)
        assert hosts._hosts == {}

    noria.run(main())
