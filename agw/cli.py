"""The command line. Imports what a sub-command needs only when it runs, so that `--help` costs an interpreter start."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from agw import __version__

EXIT_PROBLEMS, EXIT_OS, EXIT_CONFIG = 1, 71, 78

DESCRIPTION = """\
One door in front of MCP servers, A2A agents and model APIs.

  agw serve                       a demo MCP server behind http://127.0.0.1:3000/mcp
  agw serve -f config.yaml        your own configuration
  agw validate -f config.yaml     every problem of a file, with its line
  agw explain -f config.yaml GET http://host/path
  agw explain -f config.yaml --as claims.json --tool echo POST http://host/mcp
"""

SIGNALS = """\
signals:
  HUP   check the file and switch to it without losing a request; a bad file changes nothing
  TERM  stop listening, finish what runs (config.connectionTerminationDeadline), exit; again: exit at once
  QUIT  exit at once
  USR1  reopen the access log

exit codes: 0 stopped, 70 children keep dying, 71 a port cannot be had, 78 the configuration has problems
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, without side effects."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="agw", description=DESCRIPTION, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="run the gateway", description="Run the gateway.", epilog=SIGNALS, formatter_class=raw)
    serve.add_argument("-f", "--file", help="configuration (YAML or JSON); without it a demo MCP server is served on 127.0.0.1:3000")
    number = "worker processes; auto = one per CPU this process may use (default: config.workerThreads, else auto)"
    serve.add_argument("--workers", metavar="N|auto", help=number)

    about = "Exit code 0: usable; 1: problems, each as file:line:column: path: what and how to mend it."
    validate = commands.add_parser("validate", help="list every problem of a configuration", description=about)
    validate.add_argument("-f", "--file", required=True, help="configuration to check")

    about = "Print the JSON Schema (2020-12) of the configuration, for editors and other checkers."
    commands.add_parser("schema", help="print the JSON Schema of the configuration", description=about)

    about = "Print listener, route, policies in order and backends for a request, without sending anything."
    explain = commands.add_parser("explain", help="say what would happen to a request", description=about)
    explain.add_argument("-f", "--file", required=True, help="configuration to ask")
    explain.add_argument("-H", "--header", action="append", default=[], metavar="NAME: VALUE", help="a request header; may be repeated")
    explain.add_argument("--as", dest="claims", metavar="FILE", help="JSON: claims of the caller's token, or {jwt: ..., apiKey: ...}; asks the rules")
    thing = explain.add_mutually_exclusive_group()
    thing.add_argument("--tool", metavar="NAME", help="ask the rules about a call of this tool (the target's own name)")
    thing.add_argument("--prompt", metavar="NAME", help="... about this prompt")
    thing.add_argument("--resource", metavar="URI", help="... about this resource")
    explain.add_argument("--target", metavar="NAME", default="", help="MCP target of the tool, prompt or resource")
    explain.add_argument("--arguments", metavar="JSON", help="arguments of the tool")
    explain.add_argument("method", metavar="METHOD", help="GET, POST, ...")
    explain.add_argument("url", metavar="URL", help="http://host[:port]/path[?query]; the port chooses the bind")

    commands.add_parser("version", help="print the version")
    return parser


def worker_count(text: str | None, configured: int) -> int:
    """How many workers: the option, else the configuration, else one per usable CPU. Errors: ValueError."""
    if text is None or text == "auto":
        return configured if text is None and configured > 0 else len(os.sched_getaffinity(0))
    count = int(text)
    if not 1 <= count <= 512:
        raise ValueError(text)
    return count


def serve(file: str | None, workers: str | None) -> int:
    """`agw serve`."""
    import socket

    from agw._fast import process
    from agw.config import ConfigErrors, Loaded, load_default, load_file
    from agw.supervisor.sockets import SocketError
    from agw.supervisor.supervisor import Supervisor
    from agw.telemetry import logs

    demo: socket.socket | None = None
    if file is None:
        name = f"@agw-demo-{os.getpid()}"
        demo = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        demo.bind("\0" + name[1:])
        demo.listen(128)

        def load() -> Loaded:
            return load_default(name, os.environ)
    else:
        where = os.path.abspath(file)

        def load() -> Loaded:
            return load_file(where, os.environ)

    try:
        loaded = load()
    except ConfigErrors as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    try:
        count = worker_count(workers, loaded.plan.process.workers)
    except ValueError:
        print(f"agw serve: --workers {workers}: give a number from 1 to 512, or auto", file=sys.stderr)
        return 2
    process.set_name(b"agw")
    operator_log = logs.start(loaded.plan.process.log_level)
    for problem in loaded.warnings:
        print(f"warning: {problem}", file=sys.stderr)
    try:
        supervisor = Supervisor(load, loaded, count, demo, operator_log)
    except SocketError as error:
        print(f"agw serve: {error.strerror}", file=sys.stderr)
        return EXIT_OS
    except ValueError as error:
        print(f"{file}: {error}", file=sys.stderr)
        return EXIT_CONFIG
    return supervisor.run()


def validate(file: str) -> int:
    """`agw validate`: the same checks as `serve`, including the compile."""
    from agw.config import ConfigErrors, load_file
    from agw.runtime.compile import CompileError, compile_plan
    from agw.runtime.snapshot import LabelIndex, Labels

    try:
        loaded = load_file(file, os.environ)
        compile_plan(loaded.plan, 1, LabelIndex(Labels()))
    except (ConfigErrors, CompileError) as error:
        print(error, file=sys.stderr)
        return EXIT_PROBLEMS
    for problem in loaded.warnings:
        print(f"warning: {problem}", file=sys.stderr)
    plan = loaded.plan
    print(f"{file}: ok ({len(plan.binds)} binds, {len(plan.routes)} routes, {len(plan.clusters)} backends)")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the `agw` command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    if options.command == "serve":
        return serve(options.file, options.workers)
    if options.command == "validate":
        return validate(options.file)
    if options.command == "explain":
        from agw.explain import explain, explain_as

        kind = next((name for name in ("tool", "prompt", "resource") if getattr(options, name) is not None), "")
        if options.claims is None and not kind:
            return explain(options.file, options.method, options.url, options.header)
        name = getattr(options, kind) if kind else ""
        return explain_as(options.file, options.method, options.url, options.header, options.claims, kind, name, options.target, options.arguments)
    if options.command == "schema":
        from agw.config.schema import schema_text

        print(schema_text(), end="")
        return 0
    print(f"agw {__version__}")
    return 0
