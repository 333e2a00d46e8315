"""QueueShutDown: asyncio's from 3.13 on, the same of our own before."""

import sys

if sys.version_info >= (3, 13):
    from asyncio import QueueShutDown as QueueShutDown
else:

    class QueueShutDown(Exception):
        """The queue was shut down: nothing can be put into it, or there is nothing left to get."""
