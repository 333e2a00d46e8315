"""Compile the core. Everything else about the package stands in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# For developers; such a build needs the sanitizer's runtime preloaded (see the Makefile).
SANITIZE = os.environ.get("NORIA_SANITIZE", "")  # "address", "undefined"
JOBS = min(4, os.cpu_count() or 1)

flags = ["-O2", "-fno-strict-aliasing", "-fwrapv", "-fvisibility=hidden", "-Wno-unused-function"]
link: list[str] = []
if SANITIZE:
    flags += ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}"]
    link += [f"-fsanitize={SANITIZE}"]

extensions = [
    Extension(
        str(path.relative_to("src").with_suffix("")).replace("/", "."),
        [str(path)],
        extra_compile_args=flags,
        extra_link_args=link,
        include_dirs=["src/noria/core", "src/noria/io", "src/noria/files"],
        depends=[str(p) for p in Path("src/noria").glob("**/*.h")],
    )
    for path in sorted(Path("src/noria").glob("**/*.pyx"))
]

if not extensions:
    raise SystemExit(
        "setup.py found no .pyx file under src/noria: this is not a complete copy of the sources"
    )

setup(
    ext_modules=cythonize(
        extensions,
        nthreads=JOBS,
        include_path=["src"],
        compiler_directives={
            "language_level": "3",
            "initializedcheck": False,
            "auto_pickle": False,  # a copy of a task or of a handle makes no sense
            "embedsignature": True,
            "embedsignature.format": "python",
            "binding": True,
        },
    ),
    options={"build_ext": {"parallel": JOBS}},
)
