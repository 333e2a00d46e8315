"""nest_asyncio on noria: notebooks and older programs call it, and it must do no harm where nesting works anyway.

It patches the asyncio module of the whole process, so each program here is a child process of its own.
"""

from ecosystem.processes import python, running

PROGRAM = """
import asyncio, nest_asyncio, noria

async def double(number):
    await asyncio.sleep(0.001)
    return number * 2

async def fail():
    await asyncio.sleep(0)
    raise LookupError("from inside")

{program}
print("done")
"""


def passes(program: str) -> None:
    """Run `program` after the common opening; it must reach its end without an error or a warning."""
    with running(python(PROGRAM.format(program=program))) as child:
        code = child.wait()
        assert (code, child.output) == (0, "done")


def test_apply_on_the_running_loop_lets_a_coroutine_call_run_until_complete() -> None:
    passes("""
async def main():
    nest_asyncio.apply()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, noria.Loop)
    assert [loop.run_until_complete(double(number)) for number in range(20)] == list(range(0, 40, 2))
    assert asyncio.get_running_loop() is loop
    assert await double(1) == 2
    return "end"

assert noria.run(main()) == "end"
""")


def test_apply_to_a_loop_that_does_not_run_yet() -> None:
    passes("""
loop = noria.new_event_loop()
nest_asyncio.apply(loop)

async def main():
    return loop.run_until_complete(double(3)) + await double(4)

assert loop.run_until_complete(main()) == 14
loop.close()
""")


def test_apply_twice_is_as_good_as_once() -> None:
    passes("""
async def main():
    nest_asyncio.apply()
    nest_asyncio.apply()
    return asyncio.get_running_loop().run_until_complete(double(3))

assert noria.run(main()) == 6
""")


def test_asyncio_run_nests_in_the_running_loop() -> None:
    passes("""
async def main():
    nest_asyncio.apply()
    return asyncio.run(double(3)) + asyncio.run(double(4))

assert noria.run(main()) == 14
""")


def test_nesting_goes_deep_and_other_tasks_go_on_meanwhile() -> None:
    passes("""
turns = 0

async def turn():
    global turns
    while True:
        turns += 1
        await asyncio.sleep(0)

async def descend(depth):
    await asyncio.sleep(0)
    if depth == 0:
        return [id(asyncio.current_task())]
    below = asyncio.get_running_loop().run_until_complete(descend(depth - 1))
    return [id(asyncio.current_task()), *below]

async def main():
    nest_asyncio.apply()
    turning = asyncio.create_task(turn())
    await asyncio.sleep(0)
    before = turns
    path = asyncio.get_running_loop().run_until_complete(descend(20))
    assert len(set(path)) == 21
    assert turns >= before + 20
    turning.cancel()

noria.run(main())
""")


def test_an_exception_comes_out_of_the_nested_run() -> None:
    passes("""
async def main():
    nest_asyncio.apply()
    loop = asyncio.get_running_loop()
    try:
        loop.run_until_complete(fail())
    except LookupError as error:
        assert str(error) == "from inside"
    else:
        raise AssertionError("no error")
    return loop.run_until_complete(double(5))

assert noria.run(main()) == 10
""")


def test_the_rest_of_asyncio_works_after_apply() -> None:
    passes("""
async def serve(reader, writer):
    writer.write((await reader.readline()).upper())
    writer.close()
    await writer.wait_closed()

async def main():
    nest_asyncio.apply()
    assert await asyncio.gather(double(1), double(2)) == [2, 4]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(double(number)) for number in range(10)]
    assert [task.result() for task in tasks] == list(range(0, 20, 2))
    try:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    except TimeoutError:
        pass
    else:
        raise AssertionError("no timeout")
    assert await asyncio.wait_for(asyncio.to_thread(int, "7"), 10) == 7
    assert asyncio.all_tasks() == {asyncio.current_task()}
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"wheel\\n")
        assert await reader.readline() == b"WHEEL\\n"
        writer.close()
        await writer.wait_closed()

noria.run(main())
""")


def test_synchronous_code_fetches_from_a_server_on_the_loop_that_runs_it() -> None:
    passes("""
import aiohttp
from aiohttp import web

def fetch(url):
    async def get():
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return await response.text()
    return asyncio.get_event_loop().run_until_complete(get())

async def hello(request):
    return web.Response(text="hello")

async def main():
    nest_asyncio.apply()
    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    assert [fetch(url) for _ in range(5)] == ["hello"] * 5
    await runner.cleanup()

noria.run(main())
""")
