"""Builds one extension per `agw/_fast/*.pyx`. Everything else is in pyproject.toml.

Switches (environment): AGW_DEBUG=1 bounds checks and assertions; AGW_SANITIZE=1 ASan and UBSan;
AGW_ANNOTATE=1 writes Cython's annotated HTML beside each module.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("AGW_DEBUG") == "1"
sanitize = os.environ.get("AGW_SANITIZE") == "1"

compile_args = ["-O3", "-fno-strict-aliasing", "-fno-plt", "-Wno-unused-function", "-Wno-unreachable-code"]
link_args: list[str] = []
if debug:
    compile_args = ["-O1", "-g", "-UNDEBUG"]
if sanitize:
    compile_args = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
    link_args = ["-fsanitize=address,undefined"]

directives = {
    "language_level": "3",
    "boundscheck": debug,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": debug,
    "auto_pickle": False,
    "binding": True,
    "embedsignature": False,
    "freethreading_compatible": False,
}

extensions = [
    Extension(f"agw._fast.{path.stem}", [path.as_posix()], extra_compile_args=compile_args, extra_link_args=link_args)
    for path in sorted(Path("agw/_fast").glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        compiler_directives=directives,
        annotate=os.environ.get("AGW_ANNOTATE") == "1",
        nthreads=os.cpu_count() or 1,
        build_dir=os.environ.get("AGW_BUILD_DIR", "build/cython"),
    )
)
