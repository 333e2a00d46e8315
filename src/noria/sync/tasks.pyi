# The types are those of the standard library's.
from asyncio import (
    create_task as create_task,
    current_task as current_task,
    ensure_future as ensure_future,
    isfuture as isfuture,
)
