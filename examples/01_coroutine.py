"""The text's first program: a coroutine that waits for another.

Changed: `func`, which the text leaves undefined, has a body, and a loop runs the coroutine, or nothing would.
"""

import asyncio


async def func() -> None:
    print("func is called")
    await asyncio.sleep(0)
    print("func is done")


async def my_coroutine() -> None:
    await func()


if __name__ == "__main__":
    asyncio.run(my_coroutine())
