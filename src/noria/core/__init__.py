"""The wheel: ready queue, handles, timers, futures, tasks, and the loop's turn. Knows no file descriptor."""
