#!/bin/sh
# Builds the fuzzed modules with ASan and UBSan into a tree of its own and runs the fuzzer there: `make fuzz`.
#
#   tests/fuzz/run.sh [arguments of fuzz_http1.py]       default: --runs 1000000
#
# FUZZ_PYTHON    the interpreter with Cython and setuptools (default the one of .venv, else python3)
# FUZZ_TREE      where the instrumented copy goes (default build/sanitize); kept, so that the next build is incremental
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
python=$root/.venv/bin/python
if [ ! -x "$python" ]; then python=python3; fi
python=${FUZZ_PYTHON:-$python}
tree=${FUZZ_TREE:-$root/build/sanitize}
compiler=${CC:-gcc}

# The modules TARGETS of fuzz_http1.py reach, and no other: instrumented builds are slow. Every .pxd comes along.
modules="http1 jsonrpc"

mkdir -p "$tree/agw/_fast"
cp -p "$root/setup.py" "$tree/"
for file in pyproject.toml README.md; do
    if [ -e "$root/$file" ]; then cp -p "$root/$file" "$tree/"; fi
done
cp -p "$root/agw/__init__.py" "$tree/agw/"
cp -p "$root/agw/_fast/__init__.py" "$tree/agw/_fast/"
cp -p "$root"/agw/_fast/*.pxd "$tree/agw/_fast/"
for module in $modules; do
    cp -p "$root/agw/_fast/$module.pyx" "$tree/agw/_fast/"
done
(cd "$tree" && AGW_SANITIZE=1 "$python" setup.py -q build_ext --inplace)

preload="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libubsan.so)"
if [ $# -eq 0 ]; then set -- --runs 1000000; fi

# PYTHONMALLOC=malloc puts every bytes object under ASan's eyes; leaks of the interpreter itself are not ours to report.
exec env \
    LD_PRELOAD="$preload" \
    PYTHONMALLOC=malloc \
    PYTHONPATH="$tree" \
    ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:${ASAN_OPTIONS:-}" \
    UBSAN_OPTIONS="print_stacktrace=1:abort_on_error=1:${UBSAN_OPTIONS:-}" \
    "$python" "$root/tests/fuzz/fuzz_http1.py" --out "$root/build/fuzz" "$@"
