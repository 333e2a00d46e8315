"""The command `noria`: picks a command and, for `noria run`, stands in for the `python` command line.

Each command's own code is imported when it is asked for, so `noria run` needs none of the packages of an
extra.

`noria run` promises that a script cannot tell it from `python`, save that asyncio's event loops, tasks, locks, queues
and the like are noria's (see `noria.patch`):
`sys.argv`, `sys.path[0]`, `__main__` (whose objects pickle and whose children `multiprocessing` can spawn),
exit status and tracebacks are those of `python`. Not promised: processes that the script starts are plain
Python again, unless forked. Options of the interpreter go to the interpreter: `python -X dev -m noria run
FILE`.
"""

import argparse
import atexit
import builtins
import gc
import importlib.machinery
import importlib.util
import io
import os
import pkgutil
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import CodeType, ModuleType, TracebackType
from typing import NoReturn

import noria

USAGE_ERROR = 2  # exit status, as of argparse and python

# Command -> what it imports from outside.
_EXTRAS = {"get": ("aiohttp", "rich"), "demo": ("aiohttp", "rich"), "completion": ("shtab",)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's) and return the exit status.

    Raises SystemExit for --help, --version and wrong usage, and whatever a script under `noria run` raises.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in _COMMANDS:
        return _COMMANDS[arguments[0]](arguments[1:])
    parser = argparse.ArgumentParser(
        usage="noria [-h] [--version] COMMAND ...",
        prog="noria",
        description="asyncio rebuilt in one fast compiled core.",
        epilog="commands:\n"
        "  run    run any Python script or module with noria as its event loop\n"
        "  get    download files, many at a time\n"
        "  demo   see what blocking the loop costs, in under ten seconds\n"
        "  bench  compare every event loop that is installed\n"
        "  info   what noria found here: driver, kernel, limits\n"
        "  completion  print a script that completes all this in bash, zsh or fish\n\n"
        "'noria COMMAND --help' tells more about each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"noria {_version()}")
    parser.add_argument("command", choices=list(_COMMANDS), metavar="COMMAND", help=argparse.SUPPRESS)
    parser.parse_args(arguments)
    raise AssertionError("argparse accepts no command that is not in the table")


def entry() -> NoReturn:
    """The command `noria`."""
    leave(main())


def leave(status: int) -> NoReturn:
    """End the process with `status`.

    After a plain `noria get` that is without taking apart, object by object, what the system takes back at once. What
    the interpreter does before that is done, in its order (Py_FinalizeEx), as multiprocessing does it in its children.
    """
    monitoring = getattr(sys, "monitoring", None)  # from 3.12 on
    watched = sys.gettrace() or sys.getprofile() or (monitoring and any(map(monitoring.get_tool, range(6))))
    # What these need at the end is theirs.
    foreign = {"distributed", "fsspec", "pyarrow"} & sys.modules.keys()
    if "noria.get.command" not in sys.modules or watched or foreign or sys.flags.inspect:
        sys.exit(status)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is told: no traceback for whoever will not wait
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            sys.exit(status)  # and the interpreter complains of it, in its words
    os._exit(status)


def _version() -> str:
    return noria.__version__


def _get(arguments: list[str]) -> int:
    # What a download leaves is freed by its counts. With the usual threshold, the collector looks over all the modules
    # again and again, first while they come and then while nothing but jobs and results come and go.
    gc.set_threshold(50_000, 20, 20)
    try:
        from noria.get.command import main as get

        for package in _EXTRAS[
            "get"
        ]:  # imported when they are needed, which must not be in the middle of a run
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return get(arguments)
    except ModuleNotFoundError as error:
        return _missing("get", error)
    except KeyboardInterrupt:
        return 130  # as in the middle of a run
    finally:
        gc.freeze()  # else the interpreter, on its way out, looks for cycles in all that it will give back anyway


def _demo(arguments: list[str]) -> int:
    try:
        from noria.demo.command import main as demo
    except ModuleNotFoundError as error:
        return _missing("demo", error)
    return demo(arguments)


def _bench(arguments: list[str]) -> int:
    from noria.bench.command import main as bench

    return bench(arguments)


def _info(arguments: list[str]) -> int:
    argparse.ArgumentParser(
        prog="noria info",
        description="Print what noria found here: its driver and why, kernel features, limits.",
    ).parse_args(arguments)
    from noria.information import information

    for name, value in information(_version()):
        print(f"{name:<14} {value}")
    return 0


def _completion(arguments: list[str]) -> int:
    from noria.completion import main as completion

    try:
        return completion(arguments)
    except ModuleNotFoundError as error:
        return _missing("completion", error)


def _missing(command: str, error: ModuleNotFoundError) -> int:
    packages = _EXTRAS[command]
    if (error.name or "").partition(".")[0] not in packages:
        raise error
    print(f"noria {command} needs {' and '.join(packages)}: pip install 'noria[get]'", file=sys.stderr)
    return USAGE_ERROR


# --- noria run
# ---------------------------------------------------------------------------------------------------

_RUN_USAGE = "usage: noria run [-h] (FILE | -m MODULE | -) [ARGS ...]"
_RUN_HELP = f"""{_RUN_USAGE}

Run a Python program as 'python' would, with noria in the place of asyncio.

  FILE        a script, or a directory or zip file with a __main__.py
  -m MODULE   a module or package found on sys.path
  -           a program read from standard input
  ARGS        the program's own arguments

Options of the interpreter itself: python OPTIONS -m noria run FILE
"""


def _run(arguments: list[str]) -> int:
    """Run the program that `arguments` name. What it raises goes on to the interpreter."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        print(_RUN_HELP, end="")
        return 0
    if first == "--":
        del arguments[0]
    elif first.startswith("-m"):
        module = first[2:] or (arguments[1] if len(arguments) > 1 else "")
        if not module:
            return _wrong_usage("-m needs the name of a module")
        return _execute(_start_module, module, arguments[1 if first[2:] else 2 :])
    elif first.startswith("-") and first != "-":
        return _wrong_usage(f"unknown option {first}")
    if not arguments:
        return _wrong_usage("which program?")
    return _execute(_start_stdin if arguments[0] == "-" else _start_file, arguments[0], arguments[1:])


def _wrong_usage(what: str) -> int:
    print(f"{_RUN_USAGE}\nnoria run: {what}", file=sys.stderr)
    return USAGE_ERROR


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "get": _get,
    "demo": _demo,
    "bench": _bench,
    "info": _info,
    "completion": _completion,
}

_launcher: ModuleType | None = None  # the __main__ before the program's; its frames still run


def _execute(start: Callable[[str], None], program: str, arguments: list[str]) -> int:
    global _launcher
    _launcher = sys.modules["__main__"]
    main_module = ModuleType("__main__")
    vars(main_module).update(
        __annotations__={}, __builtins__=builtins, __loader__=importlib.machinery.BuiltinImporter
    )
    sys.modules["__main__"] = main_module
    sys.argv[:] = [program, *arguments]
    noria.patch()
    try:
        start(program)
    except SystemExit:
        raise
    except BaseException:
        _hide_our_frames()
        raise
    return 0


def _start_file(path: str) -> None:
    """Run a script, compiled script, or the __main__.py of a directory or zip file, as main.c of CPython
    does.
    """
    full = os.path.abspath(path)
    if pkgutil.get_importer(full) is not None:
        _set_first_path(full, always=True)
        _run_module("__main__", alter_argv=False)
        return
    loader: importlib.machinery.SourceFileLoader | importlib.machinery.SourcelessFileLoader
    code: CodeType | None
    try:
        if full.endswith(".pyc"):
            loader = importlib.machinery.SourcelessFileLoader("__main__", full)
            code = loader.get_code("__main__")
        else:
            with io.open_code(full) as file:
                source = file.read()
            loader = importlib.machinery.SourceFileLoader("__main__", full)
            code = None
    except OSError as error:
        _refuse(f"can't open file {full!r}: [Errno {error.errno}] {error.strerror}")
    _set_first_path(os.path.dirname(os.path.realpath(full)))
    if code is None:
        code = compile(source, full, "exec", dont_inherit=True)
    namespace = vars(sys.modules["__main__"])
    namespace.update(__file__=full, __cached__=None, __loader__=loader)
    exec(code, namespace)


def _start_stdin(_: str) -> None:
    _set_first_path("")
    code = compile(sys.stdin.buffer.read(), "<stdin>", "exec", dont_inherit=True)
    namespace = vars(sys.modules["__main__"])
    namespace.update(__file__="<stdin>", __cached__=None)
    exec(code, namespace)


def _start_module(name: str) -> None:
    _set_first_path(os.getcwd())
    sys.argv[0] = "-m"  # what a module sees that is imported on the way to `name`
    _run_module(name, alter_argv=True)


def _run_module(name: str, *, alter_argv: bool) -> None:
    # The public runpy.run_module puts another __main__ back before threads and atexit functions have ended.
    # This one is what main.c of CPython calls for `python -m`, with these two arguments, since 3.0.
    runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]


def _set_first_path(path: str, *, always: bool = False) -> None:
    """Put `path` where python puts a script's directory; -P (safe path) leaves it out unless `always`."""
    if not sys.flags.safe_path:
        sys.path[0] = path  # until now the directory of the command `noria` itself
    elif always:
        sys.path.insert(0, path)


def _refuse(message: str) -> NoReturn:
    print(f"noria run: {message}", file=sys.stderr)
    raise SystemExit(USAGE_ERROR)


def _hide_our_frames() -> None:
    """Have the interpreter report the exception now on its way out as if the program had run without us.

    Leaving the report to the interpreter keeps everything else of an uncaught exception as it is: the order
    of report, threads and atexit functions, and a process that KeyboardInterrupt ends by SIGINT.
    """
    hook = sys.excepthook  # the program may have set its own

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = hook
        trace = _below_us(trace)
        sys.last_traceback = trace
        try:
            hook(kind, error.with_traceback(trace), trace)
        except SystemExit:
            raise
        except BaseException as second:
            print("Error in sys.excepthook:", file=sys.stderr)
            sys.__excepthook__(type(second), second.with_traceback(_below_us(second.__traceback__)), None)
            print("\nOriginal exception was:", file=sys.stderr)
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = report


def _below_us(trace: TracebackType | None) -> TracebackType | None:
    """The part of `trace` that begins below the frames of this file and of what called it."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename != __file__:
        inner = inner.tb_next
    while inner is not None and inner.tb_frame.f_code.co_filename == __file__:
        inner = inner.tb_next
    return inner
