"""The text's last program: a task, which is a future that a coroutine fills, and its result.

Changed: `sleep` is awaited, or it does not sleep; `get_event_loop()` makes no loop from Python 3.14 on.
"""

import asyncio


async def my_task(seconds: float) -> str:
    """
    A task to do for a number of seconds
    """
    print(f"This task is taking {seconds} seconds to complete")
    await asyncio.sleep(seconds)
    return "task finished"


if __name__ == "__main__":
    my_event_loop = asyncio.new_event_loop()
    try:
        print("task creation started")
        task_obj = my_event_loop.create_task(my_task(seconds=2))
        my_event_loop.run_until_complete(task_obj)
    finally:
        my_event_loop.close()

    print(f"The task's result was: {task_obj.result()}")
