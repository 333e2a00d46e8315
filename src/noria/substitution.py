"""patch and unpatch: noria's names in the place of asyncio's, for programs and libraries that say `asyncio`.

Where a module of asyncio has a public name that noria has an object of its own for, it holds noria's from `patch()` to
`unpatch()`: the package itself, and the submodule that defines it. Which names those are is not written down anywhere:
all of `noria.__all__` whose object is noria's. So what was imported from asyncio before goes on working, with the
standard library's objects; they mix. Nothing happens by importing noria.

Left alone are the loops, and what belongs to them: which loop a program gets is what event loop policies are for, so
`patch` sets noria's, and a program that sets another one or names a loop gets that. `asyncio.EventLoop` (3.13) names
none: it stands for the best there is.
"""

from __future__ import annotations

import asyncio
import sys
import types

import noria
from noria.runners import EventLoopPolicy

# Names of a loop's parts. The standard loops build on their own, and must go on working.
_OF_THE_LOOP = {"Handle", "TimerHandle", "Server"}
# What makes, runs and chooses loops: the policy does that.
_BY_POLICY = {"EventLoopPolicy", "Loop", "Runner", "install", "new_event_loop", "run"}

_replaced: list[tuple[types.ModuleType, str, object, object]] = []  # module, name, asyncio's, noria's
_policies: list[tuple[asyncio.AbstractEventLoopPolicy | None, EventLoopPolicy]] = []  # before, ours


def patch() -> None:
    """Put noria's names in the place of asyncio's, and make noria's the loop of the program. Twice is as good as once.

    Before the program imports what it uses: `from asyncio import sleep` takes what is there at that moment.
    """
    if _policies:
        return
    own = _own_names()
    for module in _modules():
        for name, (theirs, ours) in own.items():
            if vars(module).get(name) is theirs:
                setattr(module, name, ours)
                _replaced.append((module, name, theirs, ours))
    policy = EventLoopPolicy()
    _policies.append((getattr(asyncio.events, "_event_loop_policy", None), policy))
    asyncio.set_event_loop_policy(policy)


def unpatch() -> None:
    """Undo `patch`: every name holds again what it held before, unless somebody else has changed it since."""
    while _replaced:
        module, name, theirs, ours = _replaced.pop()
        if vars(module).get(name) is ours:
            setattr(module, name, theirs)
    while _policies:
        before, policy = _policies.pop()
        if getattr(asyncio.events, "_event_loop_policy", None) is policy:
            asyncio.set_event_loop_policy(before)


def _own_names() -> dict[str, tuple[object, object]]:
    # name -> asyncio's object, noria's
    own: dict[str, tuple[object, object]] = {}
    for name in vars(noria)["__all__"]:
        ours = vars(noria)[name]
        theirs = vars(asyncio).get(name)
        if theirs is None or name in _OF_THE_LOOP or name in _BY_POLICY:
            continue
        if str(getattr(ours, "__module__", "")).partition(".")[0] == "noria":
            own[name] = (theirs, ours)
    return own


def _modules() -> list[types.ModuleType]:
    names = [name for name in sys.modules if name == "asyncio" or name.startswith("asyncio.")]
    return [sys.modules[name] for name in sorted(names)]
