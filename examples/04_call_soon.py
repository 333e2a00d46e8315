"""The text's scheduling example: two callbacks, first in, first out; the second stops the loop.

Changed: `get_event_loop()` makes no loop from Python 3.14 on; and the loop is closed, as the text announces.
"""

import asyncio
import functools


def event_handler(loop: asyncio.AbstractEventLoop, stop: bool = False) -> None:
    print("Event handler called")
    if stop:
        print("stopping the loop")
        loop.stop()


if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    try:
        loop.call_soon(functools.partial(event_handler, loop))
        print("starting event loop")
        loop.call_soon(functools.partial(event_handler, loop, stop=True))

        loop.run_forever()
    finally:
        print("closing event loop")
        loop.close()
