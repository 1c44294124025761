"""The one module around the CEL library: text to a checked expression, facts to a value or an error value.

Rules:
- the library is imported when the first expression is compiled, and by nobody else;
- an expression is at most MAX_TEXT octets long and as deep as the library allows (32); every name and type in it is checked, and what is wrong
  is told with line and column;
- an evaluation never raises and is bounded by the library's iteration budget; what it is given is checked by `cel_functions.safe`;
- an expression knows which variables it needs and which members of a map it looks at, so facts are made for these only;
- nothing here changes the length of the text before it is parsed, so columns are those of what the operator wrote.

Source: https://github.com/google/cel-spec/blob/master/doc/langdef.md; the library is Google's own C++ implementation.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple, Protocol

from agw.security.cel_default import PREFIX, STRING, Malformed, take_out
from agw.security.cel_functions import FUNCTIONS, safe
from agw.security.cel_names import UNAVAILABLE, Phase, Variable, presences, variables

MAX_EXPRESSION: Final = 16_384
MAX_COMPILED: Final = 4096
"""Expressions kept compiled; a plan beyond that compiles some again at the next reload."""

INSTALL: Final = "expressions need the package cel-expr-python, which cannot be imported here; install it: pip install cel-expr-python==0.1.3"

ANY: Final = frozenset(("bool", "string", "int", "uint", "double", "bytes", "list", "map", "timestamp", "duration", "null", "dyn"))


class Fault(NamedTuple):
    """What is wrong with an expression; line and column (of characters) count from 1 within it."""

    message: str
    line: int
    column: int


class CelError(Exception):
    """The expression is refused. `faults` has at least one entry."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(f"{item.message} (line {item.line}, column {item.column})" for item in faults))
        self.faults = faults


class CelMissing(Exception):
    """The library cannot be imported; the text says what to do."""


class EvaluationError:
    """Instead of a value: why there is none. `missing` is the variable that was not known, "" for other reasons."""

    __slots__ = ("missing", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        found = _ABSENT.search(text)
        self.missing = found[1].removeprefix("has_") if found else ""

    def __repr__(self) -> str:
        return f"EvaluationError({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EvaluationError) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


class Values(Protocol):
    """Where values of variables come from; see `agw.security.facts`."""

    def data(self, names: Iterable[str], members: Mapping[str, frozenset[str] | None]) -> dict[str, Any]:
        """The values of these variables, without those that are not known. `members` are the ones of a map that are looked at."""


class Expression:
    """A checked expression. Immutable.

    `needs` are the groups of facts it depends on (`cel_names`), `names` its variables, `members` what it looks at of maps (None: everything),
    `returns` its static type, one of ANY. `constant` is its value when no fact can change it, else an EvaluationError.
    """

    __slots__ = ("_deferred", "_program", "constant", "members", "names", "needs", "phase", "returns", "text")

    def __init__(
        self, text: str, phase: Phase, program: Any, names: frozenset[str], members: dict[str, frozenset[str] | None], needs: frozenset[str],
        deferred: tuple[Deferred, ...] = (),
    ) -> None:
        self.text = text
        self.phase = phase
        self.names = names
        self.members = members
        self.needs = needs
        self.returns = _type_name(program)
        self._program = program
        self._deferred = deferred
        self.constant = self._of({})

    def __repr__(self) -> str:
        return f"Expression({self.text!r}, {self.phase!r})"

    def evaluate(self, values: Values) -> Any:
        """The value (None, bool, int, float, str, bytes, list, dict, datetime, timedelta) or an EvaluationError. Never raises."""
        return self._of(values.data(self.names, self.members))

    def value(self, bound: Bound) -> Any:
        """The same for several expressions over one `activation`."""
        return self._of(bound.data) if self._deferred else _value_of(lambda: self._program.eval(bound.activation))

    def _of(self, data: dict[str, Any]) -> Any:
        """The value for these variables."""
        if not self._deferred:
            return _value_of(lambda: self._program.eval(data=data))
        known, failed = self._resolved(data)
        value = _value_of(lambda: self._program.eval(data=known))
        return failed.get(value.missing, value) if isinstance(value, EvaluationError) else value

    def _resolved(self, data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, EvaluationError]]:
        """The variables with those of `default` and `coalesce`, and why some of these have no value."""
        known = dict(data)
        failed: dict[str, EvaluationError] = {}
        for variable, alternatives, takes_any in self._deferred:
            for alternative in alternatives:
                value = alternative._of(data)
                if not isinstance(value, EvaluationError):
                    if value is not None or alternative is alternatives[-1]:
                        known[variable] = value
                        failed.pop(variable, None)
                        break
                    continue
                failed[variable] = value
                if value.missing:
                    if data.get(f"has_{value.missing}") is not False:
                        break  # it is there, and no expression can use it
                elif not takes_any and not value.text.startswith(_NO_KEY):
                    break
        return known, failed

    def test(self, activation: Bound) -> bool | EvaluationError:
        """Is it true? For several expressions over one `activation`."""
        if self._deferred:
            found = self._of(activation.data)
            return found if isinstance(found, (bool, EvaluationError)) else EvaluationError("the rule is neither true nor false")
        try:
            result = self._program.eval(activation.activation)
            value = result.value()
            if value is True:
                return True
            if value is False:
                return False
            if result.type().name() == "ERROR":
                return EvaluationError(str(value))
        except Exception as error:  # the library raises RuntimeError for what it has no error value for
            return EvaluationError(str(error)[:1024])
        return EvaluationError("the rule is neither true nor false")


class Deferred(NamedTuple):
    """A call of `default` or `coalesce`; see `cel_default`."""

    variable: str
    alternatives: tuple[Expression, ...]
    takes_any: bool


class Bound(NamedTuple):
    """Facts, in the library's form and as they are."""

    activation: Any
    data: dict[str, Any]


def activation(phase: Phase, data: dict[str, Any]) -> Bound:
    """The facts of `data` for `Expression.test` of any expressions of this phase. Never raises: facts the library refuses are left out."""
    env = _environment(phase, 0)
    try:
        return Bound(env.Activation(data), data)
    except Exception:  # as above; `data` is checked, so this is not expected, and no fact is known then
        return Bound(env.Activation({}), {})


def merged(expressions: Iterable[Expression]) -> tuple[frozenset[str], dict[str, frozenset[str] | None]]:
    """The variables and members of all expressions together."""
    names: set[str] = set()
    members: dict[str, frozenset[str] | None] = {}
    for expression in expressions:
        names |= expression.names
        for name, wanted in expression.members.items():
            before = members.get(name, frozenset())
            members[name] = None if before is None or wanted is None else before | wanted
    return frozenset(names), members


@lru_cache(maxsize=MAX_COMPILED)
def compile(expression: str, phase: Phase) -> Expression:
    """Check an expression. Errors: CelError, CelMissing."""
    if not expression.strip():
        raise CelError([Fault("the expression is empty", 1, 1)])
    try:
        size = len(expression.encode())
    except UnicodeEncodeError:
        raise CelError([Fault("the expression is no Unicode text", 1, 1)]) from None
    if size > MAX_EXPRESSION:
        raise CelError([Fault(f"the expression has {size} octets; at most {MAX_EXPRESSION} are allowed", 1, 1)])
    known = _known(phase)
    text, deferred = _taken_out(_prepared(expression, known), phase)
    program = _parse(_environment(phase, len(deferred)), text, phase)
    _check_constants(expression)
    names: set[str] = set()
    words = set(re.findall(r"\w+", _seen(text)))
    for name in known:
        if name.rpartition(".")[2] in words:  # else it cannot be meant; each trial costs 0.2 ms
            try:
                _environment_without(phase, name, len(deferred)).compile(text)
            except RuntimeError:
                names.add(name)
    members = {name: _members(text, name) for name in names if known[name].kind in ("map", "strings")}
    needs = frozenset(known[name].group for name in names) - {""}
    if not deferred:
        return Expression(expression, phase, program, frozenset(names), members, needs)
    inner = [alternative for item in deferred for alternative in item.alternatives]
    found, looked = merged(inner)
    for name, wanted in looked.items():
        before = members.get(name, frozenset())
        members[name] = None if before is None or wanted is None else before | wanted
    # Whether a variable is there decides whether another value may stand in for it.
    asked = {f"has_{name}" for name in found} & known.keys()
    return Expression(expression, phase, program, frozenset(names) | found | asked, members, needs.union(*(item.needs for item in inner)), tuple(deferred))


def _taken_out(text: str, phase: Phase) -> tuple[str, list[Deferred]]:
    """The text without calls of `default` and `coalesce`, and these. Errors: CelError."""
    try:
        text, taken = take_out(text)
    except Malformed as error:
        line = text.count("\n", 0, error.at) + 1
        raise CelError([Fault(str(error), line, error.at - (text.rfind("\n", 0, error.at) + 1) + 1)]) from None
    return text, [Deferred(item.variable, tuple(compile(part, phase) for part in item.arguments), item.takes_any) for item in taken]


# ------------------------------------------------------------------------------------------------------- environments


@cache
def _library() -> Any:
    try:
        from cel_expr_python import cel  # type: ignore[import-untyped, unused-ignore]
        from cel_expr_python.ext import ext_bindings, ext_math, ext_optional, ext_strings  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise CelMissing(f"{INSTALL} ({error})") from None
    kinds = cel.Type
    types = {
        "string": kinds.STRING, "int": kinds.INT, "bool": kinds.BOOL, "double": kinds.DOUBLE, "bytes": kinds.BYTES, "dyn": kinds.DYN,
        "timestamp": kinds.TIMESTAMP, "map": kinds.Map(kinds.STRING, kinds.DYN), "strings": kinds.Map(kinds.STRING, kinds.STRING),
        "list": kinds.List(kinds.STRING),
    }  # fmt: skip
    by_name: dict[str, list[Any]] = {}
    any_kind = {**types, "map": kinds.MAP, "list": kinds.LIST}
    for number, item in enumerate(FUNCTIONS):
        chosen = any_kind if item.name in ("toJson", "to_json", "form.encode", "merge") else types
        overload = cel.Overload(
            f"agw_{number}", return_type=types[item.result], parameters=[chosen[kind] for kind in item.parameters], is_member=item.member,
            impl=_guarded(item.call),
        )  # fmt: skip
        by_name.setdefault(item.name, []).append(overload)
    functions = [cel.FunctionDecl(name, overloads) for name, overloads in by_name.items()]
    extensions = [ext_strings.ExtStrings(), ext_math.ExtMath(), ext_optional.ExtOptional(), ext_bindings.ExtBindings()]

    def make(declared: Mapping[str, Variable]) -> Any:
        return cel.NewEnv(variables={name: types[item.kind] for name, item in declared.items()}, extensions=extensions, functions=functions)

    return make


def _guarded(call: Callable[..., Any]) -> Callable[..., Any]:
    """Only ValueError leaves a function, which the library makes an error value; and only what it takes as it is comes back."""

    def guarded(*arguments: Any) -> Any:
        try:
            return safe(call(*arguments))
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(type(error).__name__) from None

    return guarded


@cache
def _known(phase: Phase) -> dict[str, Variable]:
    return {**variables(phase), **presences(phase)}


def _declared(phase: Phase, deferred: int) -> dict[str, Variable]:
    return {**_known(phase), **{f"{PREFIX}{number}": Variable(f"{PREFIX}{number}", "dyn", "", phase) for number in range(deferred)}}


@cache
def _environment(phase: Phase, deferred: int) -> Any:
    return _library()(_declared(phase, deferred))


def _environment_without(phase: Phase, name: str, deferred: int) -> Any:
    return _library()({other: item for other, item in _declared(phase, deferred).items() if other != name})


# --------------------------------------------------------------------------------------------------------------- text

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_TOKEN = re.compile(
    rf"(?P<has>(?<![\w.])has\([ \t]*(?P<name>{_NAME})[ \t]*\))"
    r"|(?P<header>(?<![\w.])(?:request|response)\.headers\[[ \t]*(?:\"[\w-]*\"|'[\w-]*')[ \t]*\])"
    r"|(?P<replace>\.replace(?=\())"
    rf"|(?:(?<!\w)(?:{STRING}))|//[^\n]*"
)
_CONSTANT = re.compile(rf"(?<![\w])(?P<name>cidr|ip|timestamp|duration|matches|containsIP|containsCIDR|regexReplace)\([ \t]*(?P<text>(?:{STRING}))[ \t]*[,)]")
_SKIPPED = re.compile(rf"(?<!\w)(?:{STRING})|//[^\n]*")
_ERROR = re.compile(r"^(?:INVALID_ARGUMENT: )?ERROR: <input>:(-?\d+):(-?\d+): (.*)$", re.MULTILINE)
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)' \(in container ''\)")
_NO_KEY = "NOT_FOUND:"
_ABSENT = re.compile(r'No value with name "([\w.]+)" found in Activation')


def _prepared(text: str, known: Mapping[str, Variable]) -> str:
    """The text as the library gets it, of the same length: `has()` of a variable, names of headers, and `replace`."""

    def change(found: re.Match[str]) -> str:
        whole = found[0]
        if found["has"] is not None and f"has_{found['name']}" in known:
            return f"has_{found['name']}".ljust(len(whole))
        if found["header"] is not None:
            return whole.lower()
        if found["replace"] is not None:
            return ".replacE"
        return whole

    return _TOKEN.sub(change, text)


def _seen(text: str) -> str:
    """The text without string constants and comments."""
    return _SKIPPED.sub(" ", text)


def _members(text: str, name: str) -> frozenset[str] | None:
    """Which members of a map variable are looked at; None when it may be any. Every mention of its last word must say."""
    last = name.rpartition(".")[2]
    mention = re.compile(
        rf"\b{re.escape(name)}(?:\.\??[ \t]*(?P<field>[A-Za-z_]\w*\b)(?![ \t\n]*\()|\[[ \t]*(?:\"(?P<a>[^\"\\\n]*)\"|'(?P<b>[^'\\\n]*)')[ \t]*\])"
    )
    found = [match["field"] or match["a"] or match["b"] or "" for match in mention.finditer(text)]
    return frozenset(found) if len(found) == len(re.findall(rf"\b{last}\b", text)) else None


def _parse(env: Any, text: str, phase: Phase) -> Any:
    try:
        return env.compile(text)
    except RuntimeError as error:
        said = str(error)
    faults = []
    for line, column, message in _ERROR.findall(said):
        faults.append(Fault(_told(message.removesuffix(" [INVALID_ARGUMENT]"), phase), max(int(line), 1), max(int(column), 1)))
    if not faults:
        faults = [Fault("it is nested too deep (at most 32 levels)" if "recursion" in said else said[:256], 1, 1)]
    raise CelError(list(dict.fromkeys(faults))) from None


def _told(message: str, phase: Phase) -> str:
    message = message.replace("replacE", "replace")
    if "max recursion depth" in message:
        return "it is nested too deep (at most 32 levels)"
    found = _UNDECLARED.fullmatch(message)
    if found is None:
        return message
    name = found[1]
    hint = _hint(name)
    if hint:
        return f"`{name}` is not available: {hint}"
    everywhere = _known("mcp")
    if name in everywhere:
        return f"`{name}` is not known in this place; there are {', '.join(sorted({item.partition('.')[0] for item in variables(phase)}))}"
    candidates = [*variables(phase), *(item.name for item in FUNCTIONS if item.name != "replacE"), "replace", "matches", "startsWith", "endsWith", "contains"]
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.7)
    below = [item for item in candidates if item.startswith(name + ".")]
    if near:
        return f"there is no `{name}`; did you mean `{near[0]}`?"
    if below:
        return f"`{name}` is no value by itself; name one of {', '.join(f'`{item}`' for item in below[:6])}, or ask has({name})"
    return f"there is no `{name}`"


def _hint(name: str) -> str:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        hint = UNAVAILABLE.get(".".join(parts[:length]))
        if hint:
            return hint
    return ""


def _check_constants(text: str) -> None:
    """Constants that no evaluation could use: networks, addresses, times and patterns."""
    comments = [found.span() for found in _SKIPPED.finditer(text)]
    env = _environment("network", 0)
    faults = []
    for found in _CONSTANT.finditer(text):
        start = found.start()
        if any(low <= start < high for low, high in comments):
            continue
        name, constant = found["name"], found["text"]
        asked = {"matches": f'"".matches({constant})', "containsIP": f"ip({constant})", "containsCIDR": f"cidr({constant})",
                 "regexReplace": f'"".regexReplace({constant}, "")'}.get(name, f"{name}({constant})")
        try:
            value = _value_of(env.compile(asked).eval)
        except RuntimeError:
            continue  # not what it looked like
        if isinstance(value, EvaluationError):
            place = found.start("text")
            line = text.count("\n", 0, place) + 1
            faults.append(Fault(_reason(value.text), line, place - (text.rfind("\n", 0, place) + 1) + 1))
    if faults:
        raise CelError(faults)


def _reason(text: str) -> str:
    return re.sub(r"^[A-Z_]+: ", "", text)


# ------------------------------------------------------------------------------------------------------------- values


def _type_name(program: Any) -> str:
    name = str(program.return_type().name()).partition("<")[0].lower()
    return name if name in ANY else "dyn"


def _value_of(evaluate: Callable[[], Any]) -> Any:
    try:
        result = evaluate()
        if result.type().name() == "ERROR":
            return EvaluationError(str(result.value()))
        value = result.plain_value()
        if value is None or value is True or value is False:
            return value
        if type(value) is str or isinstance(value, (int, float, bytes, bytearray, list, dict)):
            return safe(value)
        return value if type(value).__module__ == "datetime" else EvaluationError("the result is no value that can be used")
    except Exception as error:  # see Expression.test
        return EvaluationError(str(error)[:1024])
