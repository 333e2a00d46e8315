"""`noria run` against `python`: the same program, run both ways, must behave the same, but on noria's loop."""

import os
import py_compile
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PYTHON = [sys.executable]
NORIA = [sys.executable, "-m", "noria", "run"]

ABOUT_ITSELF = """
import sys
print(sys.argv, sys.path[0], list(sys.modules["__main__"].__dict__))
print(__name__, __file__, __package__, __cached__, type(__loader__) is type and __loader__ or type(__loader__))
print(__spec__ and (__spec__.name, __spec__.origin), __annotations__, sys.modules["__main__"].__dict__ is globals())
"""


def run(command: list[str], where: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        input=text,
        cwd=where,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(),
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}


def assert_same(arguments: list[str], where: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run both ways; what noria's way gave."""
    with_python = run([*PYTHON, *arguments], where, text)
    with_noria = run([*NORIA, *arguments], where, text)
    assert with_noria.stdout == with_python.stdout
    assert with_noria.stderr == with_python.stderr
    assert with_noria.returncode == with_python.returncode
    return with_noria


def write(where: Path, name: str, text: str) -> str:
    (where / name).parent.mkdir(parents=True, exist_ok=True)
    (where / name).write_text(text)
    return name


# --- the loop ---


def test_asyncio_run_gets_a_noria_loop(tmp_path: Path) -> None:
    program = """
import asyncio
async def main():
    return type(asyncio.get_running_loop()).__mro__
print(*(one.__module__ for one in asyncio.run(main())))
with asyncio.Runner() as runner:
    print(type(runner.get_loop()).__module__)
loop = asyncio.new_event_loop()
print(type(loop).__module__)
loop.close()
"""
    done = run([*NORIA, write(tmp_path, "x.py", program)], tmp_path)
    assert done.stderr == ""
    assert [line.split(".")[0] for line in done.stdout.splitlines()] == ["noria"] * 3


# --- where the program comes from ---


def test_a_script_sees_itself_as_under_python(tmp_path: Path) -> None:
    assert_same([write(tmp_path, "x.py", ABOUT_ITSELF), "-m", "--flag", "a b"], tmp_path)


def test_a_script_elsewhere_and_without_ending(tmp_path: Path) -> None:
    assert_same([write(tmp_path, "inner/tool", ABOUT_ITSELF)], tmp_path)


def test_a_script_behind_a_symbolic_link(tmp_path: Path) -> None:
    write(tmp_path, "real/x.py", ABOUT_ITSELF)
    (tmp_path / "link.py").symlink_to("real/x.py")
    assert_same(["link.py"], tmp_path)


def test_a_script_imports_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "inner/neighbour.py", "answer = 42")
    done = assert_same(
        [write(tmp_path, "inner/x.py", "from neighbour import answer; print(answer)")], tmp_path
    )
    assert done.stdout == "42\n"


@pytest.mark.parametrize("name", ["tool", "package.tool", "package"])
def test_a_module(tmp_path: Path, name: str) -> None:
    for path in ["tool.py", "package/__init__.py", "package/tool.py", "package/__main__.py"]:
        write(tmp_path, path, "import sys; print(__name__, sys.argv)" if "init" in path else ABOUT_ITSELF)
    assert_same(["-m", name, "-x", "y"], tmp_path)


def test_the_module_may_follow_the_option_directly(tmp_path: Path) -> None:
    write(tmp_path, "tool.py", ABOUT_ITSELF)
    assert_same(["-mtool", "y"], tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "package", "package.nowhere", "broken"])
def test_a_module_that_cannot_run(tmp_path: Path, name: str) -> None:
    write(tmp_path, "package/__init__.py", "")
    write(tmp_path, "broken.py", "import no_such_module_anywhere")
    assert assert_same(["-m", name], tmp_path).returncode == 1


def test_a_directory_with_a_main(tmp_path: Path) -> None:
    write(tmp_path, "program/__main__.py", ABOUT_ITSELF)
    assert_same(["program", "a"], tmp_path)


def test_a_directory_without_one(tmp_path: Path) -> None:
    (tmp_path / "program").mkdir()
    assert assert_same(["program"], tmp_path).returncode == 1


def test_a_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        archive.writestr("__main__.py", ABOUT_ITSELF + "\nraise ValueError('in the archive')\n")
    assert assert_same(["program.zip"], tmp_path).returncode == 1


def test_a_compiled_script(tmp_path: Path) -> None:
    py_compile.compile(str(tmp_path / write(tmp_path, "x.py", ABOUT_ITSELF)), str(tmp_path / "x.pyc"))
    assert_same(["x.pyc"], tmp_path)


def test_standard_input(tmp_path: Path) -> None:
    assert_same(["-", "a"], tmp_path, ABOUT_ITSELF)


def test_safe_path_keeps_the_scripts_directory_out(tmp_path: Path) -> None:
    write(tmp_path, "x.py", ABOUT_ITSELF)
    with_python = run([sys.executable, "-P", "x.py"], tmp_path)
    with_noria = run([sys.executable, "-P", "-m", "noria", "run", "x.py"], tmp_path)
    assert with_noria.stdout == with_python.stdout


# --- how it ends ---


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit()",
        "sys.exit(0)",
        "sys.exit(7)",
        "sys.exit('last words')",
        "sys.exit([1])",
        "raise SystemExit(3)",
    ]
    + ["import os; os._exit(9)", "sys.exit(256 + 5)", "sys.exit(None)"],
)
def test_exit_statuses(tmp_path: Path, end: str) -> None:
    assert_same([write(tmp_path, "x.py", f"import sys\nprint('here')\n{end}\n")], tmp_path)


@pytest.mark.parametrize(
    "program",
    [
        "1/0",
        "def f():\n    raise ValueError('deep')\ndef g():\n    f()\ng()",
        "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError('chained') from e",
        "try:\n    1/0\nexcept ZeroDivisionError:\n    raise KeyError('in the middle')",
        "def f():\n    try:\n        1/0\n    finally:\n        undefined\nf()",
        "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])",
        "e = ValueError('x')\ne.add_note('a note')\nraise e",
        "raise BaseException('base')",
        "import neighbour",
        "x = = 1",
        "def f(:\n    pass",
        "  indented",
        "print('no end",
        "exec('y = = 2')",
        "raise SyntaxError('home made')",
        "import sys\nsys.excepthook = lambda *a: print('own hook', a[0], a[2].tb_lineno)\n1/0",
        "import sys\ndef hook(*a):\n    raise RuntimeError('in hook')\nsys.excepthook = hook\n1/0",
        "import sys\ndef hook(*a):\n    sys.exit(5)\nsys.excepthook = hook\n1/0",
        "import atexit, threading\natexit.register(print, 'at exit')\n"
        "threading.Thread(target=lambda: print('thread', __name__)).start()\n1/0",
    ],
)
def test_uncaught_exceptions_look_as_under_python(tmp_path: Path, program: str) -> None:
    write(tmp_path, "neighbour.py", "x = 1\n1/0\n")
    assert assert_same([write(tmp_path, "x.py", program + "\n")], tmp_path).returncode in (1, 5)


def test_uncaught_exceptions_of_a_module_look_as_under_python(tmp_path: Path) -> None:
    write(tmp_path, "package/__init__.py", "")
    write(tmp_path, "package/tool.py", "def f():\n    1/0\nf()")
    assert assert_same(["-m", "package.tool"], tmp_path).returncode == 1


def test_endless_recursion_ends_as_under_python_though_a_few_frames_earlier(tmp_path: Path) -> None:
    write(tmp_path, "x.py", "f = lambda: f()\nf()\n")
    with_python, with_noria = (run([*command, "x.py"], tmp_path) for command in (PYTHON, NORIA))
    assert with_noria.returncode == with_python.returncode == 1
    without_count = re.compile(r"repeated \d+ more times")
    assert without_count.sub("", with_noria.stderr) == without_count.sub("", with_python.stderr)


def test_an_uncaught_exception_of_a_task_shows_no_frames_of_the_command(tmp_path: Path) -> None:
    program = "import asyncio\nasync def main():\n    raise ValueError('in a task')\nasyncio.run(main())\n"
    done = run([*NORIA, write(tmp_path, "x.py", program)], tmp_path)
    lines = done.stderr.splitlines()
    assert (done.returncode, lines[-1]) == (1, "ValueError: in a task")
    assert lines[1] == f'  File "{tmp_path}/x.py", line 4, in <module>'
    assert "noria/cli.py" not in done.stderr


def test_a_source_with_a_null_byte_is_a_syntax_error(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_bytes(b"x = 1\0\n")
    done = run([*NORIA, "x.py"], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("SyntaxError: ") or "\nSyntaxError: " in done.stderr
    assert "noria" not in done.stderr


def test_an_encoding_declared_in_the_source_counts(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_bytes("# coding: latin-1\nprint(ascii('é'))\n".encode("latin-1"))
    assert assert_same(["x.py"], tmp_path).stdout == "'\\xe9'\n"


def test_a_failure_on_standard_input_has_no_frames_of_ours(tmp_path: Path) -> None:
    done = run([*NORIA, "-"], tmp_path, "def f():\n    1/0\nf()\n")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "File" in line] == [
        '  File "<stdin>", line 3, in <module>',
        '  File "<stdin>", line 2, in f',
    ]


@pytest.mark.parametrize("command", [PYTHON, NORIA])
def test_an_interrupt_ends_the_process_by_the_signal(tmp_path: Path, command: list[str]) -> None:
    program = """import atexit, time
atexit.register(print, 'at exit', flush=True)
print('up', flush=True); time.sleep(60)
"""
    with subprocess.Popen(
        [*command, write(tmp_path, "x.py", program)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT  # which a shell shows as 130
    assert stdout == "at exit\n"
    assert stderr.splitlines()[0] == "Traceback (most recent call last):"
    assert stderr.splitlines()[1] == f'  File "{tmp_path}/x.py", line 3, in <module>'
    assert stderr.splitlines()[-1] == "KeyboardInterrupt"


def test_an_interrupt_in_asyncio_run_cancels_the_main_task(tmp_path: Path) -> None:
    program = """
import asyncio
async def main():
    print("up", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)
asyncio.run(main())
"""
    with subprocess.Popen(
        [*NORIA, write(tmp_path, "x.py", program)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert stdout == "cleaned up\n"
    assert stderr.splitlines()[-1] == "KeyboardInterrupt"


# --- __main__ is the program's own ---


def test_objects_of_main_pickle(tmp_path: Path) -> None:
    program = """
import pickle, sys
class Thing:
    pass
def function():
    pass
if __name__ == "__main__":
    import __main__
    assert pickle.loads(pickle.dumps(function)) is function is __main__.function
    print(type(pickle.loads(pickle.dumps(Thing()))) is Thing, Thing.__module__)
"""
    assert assert_same([write(tmp_path, "x.py", program)], tmp_path).stdout == "True __main__\n"


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.parametrize("way", ["file", "module"])
def test_multiprocessing_finds_the_programs_functions(tmp_path: Path, method: str, way: str) -> None:
    program = f"""
import multiprocessing
def double(x):
    return 2 * x
if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    with context.Pool(2) as pool:
        print(pool.map(double, range(5)))
"""
    write(tmp_path, "x.py", program)
    arguments = ["x.py"] if way == "file" else ["-m", "x"]
    assert assert_same(arguments, tmp_path).stdout == "[0, 2, 4, 6, 8]\n"


def test_globals_are_there_for_functions_at_exit(tmp_path: Path) -> None:
    program = "import atexit\nword = 'still here'\natexit.register(lambda: print(word))\n"
    for arguments in (["x.py"], ["-m", "x"]):
        write(tmp_path, "x.py", program)
        assert assert_same(arguments, tmp_path).stdout == "still here\n"


# --- wrong usage ---


def test_a_missing_file_is_2(tmp_path: Path) -> None:
    done = run([*NORIA, "nowhere.py"], tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"noria run: can't open file '{tmp_path}/nowhere.py': [Errno 2] No such file or directory\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which program?"),
        (["--"], "which program?"),
        (["-m"], "-m needs the name of a module"),
        (["--fast", "x.py"], "unknown option --fast"),
        (["-X", "dev", "x.py"], "unknown option -X"),
    ],
)
def test_wrong_usage_is_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run([*NORIA, *arguments], tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "usage: noria run [-h] (FILE | -m MODULE | -) [ARGS ...]",
        f"noria run: {message}",
    ]


def test_two_hyphens_end_our_options(tmp_path: Path) -> None:
    write(tmp_path, "-odd.py", "import sys; print(sys.argv)")
    assert run([*NORIA, "--", "-odd.py", "--", "-x"], tmp_path).stdout == "['-odd.py', '--', '-x']\n"
