"""Public names, URIs and task ids lead back to what they were made of, whatever targets and names there are."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agw.mcp.federation.names import Naming, Owners
from agw.mcp.federation.templates import compile_template
from agw.mcp.federation.uris import UriOwners, Uris

PROFILE = settings(max_examples=200, deadline=None, derandomize=True, database=None)

ids = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,6}[a-z0-9])?", fullmatch=True)
targets = st.lists(ids, min_size=1, max_size=6, unique=True)
names = st.text(alphabet="ab_-.AZ09:/+", max_size=12)
schemes = st.sampled_from(["file:///", "ui://", "UI://", "git+ssh://", "urn:", "a+b:", "http://", "mem://x/{y}/", ""])
uris = st.one_of(st.text(max_size=20), st.builds("{}{}".format, schemes, st.text("ab/?#+:_{}é", max_size=12)))


@PROFILE
@given(targets, st.sampled_from(["_", "__", "-", ".", "-x-"]), st.data())
def test_names_lead_back(given_targets: list[str], separator: str, data: st.DataObject) -> None:
    naming = Naming(given_targets, "always", separator)
    assume(not naming.problems().errors)
    target = data.draw(st.integers(0, len(given_targets) - 1))
    name = data.draw(names)
    assert naming.split(naming.public(target, name)) == (target, name)


@PROFILE
@given(targets, st.sampled_from(["_", "-", ".", "a"]), names)
def test_split_is_the_longest_known_target(given_targets: list[str], separator: str, public: str) -> None:
    naming = Naming(given_targets, "always", separator)
    fitting = [target for target in given_targets if public.startswith(target + separator)]
    longest = max(fitting, key=len, default=None)
    expected = None if longest is None else (given_targets.index(longest), public[len(longest + separator) :])
    assert naming.split(public) == expected


@PROFILE
@given(targets, uris, st.data())
def test_uris_lead_back(given_targets: list[str], uri: str, data: st.DataObject) -> None:
    rewriting = Uris(given_targets, True)
    target = data.draw(st.integers(0, len(given_targets) - 1))
    public = rewriting.public(target, uri)
    if public != uri:
        assert rewriting.split(public) == (target, uri)
        name = given_targets[target]
        assert rewriting.split(public.replace(name + "+", name.upper() + "+", 1)) == (target, uri)
    else:
        assert uri.lower().startswith(("http:", "https:"))


@PROFILE
@given(targets, st.text(max_size=12), st.data())
def test_task_ids_lead_back(given_targets: list[str], ident: str, data: st.DataObject) -> None:
    naming = Naming(given_targets, data.draw(st.sampled_from(["always", "conditional", "never"])))
    target = data.draw(st.integers(0, len(given_targets) - 1))
    assert naming.split_task(naming.task(target, ident)) == (target, ident)


@PROFILE
@given(st.lists(st.lists(st.sampled_from("abcdef"), unique=True), min_size=1, max_size=5))
def test_owners_are_the_first_in_order(lists: list[list[str]]) -> None:
    owners = Owners(len(lists))
    for target in reversed(range(len(lists))):
        owners.assign(target, lists[target])
    for name in "abcdefg":
        assert owners.owner(name) == next((target for target, having in enumerate(lists) if name in having), None)
    assert owners.duplicates() == sum(map(len, lists)) - len({name for having in lists for name in having})


values = st.text(alphabet="abz019-._~", max_size=5)
pieces = st.one_of(
    st.builds(lambda text: (text, text), st.text(alphabet="ab/:.é", max_size=4)),
    st.builds(lambda value: ("{x}", value), values),
    st.builds(lambda value: ("{+x}", value), st.text(alphabet="ab/?#:é", max_size=5)),
    st.builds(lambda value: ("{#x}", "#" + value), values),
    st.builds(lambda value: ("{.x}", "." + value), values),
    st.builds(lambda some: ("{/x*}", "".join("/" + one for one in some)), st.lists(values, max_size=3)),
    st.builds(lambda value: (";{x}".replace(";{", "{;"), ";x=" + value), values),
    st.builds(lambda a, b: ("{?x,y}", f"?x={a}&y={b}"), values, values),
    st.builds(lambda value: ("{&x}", "&x=" + value), values),
    st.sampled_from([("{x}", ""), ("{/x}", ""), ("{?x}", ""), ("{a,b}", "1,2"), ("{x:3}", "abc"), ("{k*}", "a=1,b=2")]),
)


@PROFILE
@given(st.lists(pieces, max_size=6))
def test_templates_match_their_expansions(parts: list[tuple[str, str]]) -> None:
    template = compile_template("".join(text for text, _ in parts))
    assert template is not None
    assert template.matches("".join(expansion for _, expansion in parts))


@PROFILE
@given(st.lists(st.lists(st.text("ab/:", min_size=1, max_size=5), max_size=4), min_size=2, max_size=3), st.text("ab/:", max_size=6))
def test_uri_owner_is_the_lister_or_the_only_one_with_the_prefix(lists: list[list[str]], uri: str) -> None:
    owners = UriOwners(len(lists))
    for target, having in enumerate(lists):
        owners.learn(target, uris=having)
    found = owners.owner(uri)
    listing = [target for target, having in enumerate(lists) if uri in having]
    if listing:
        assert found == listing[0]
    elif found is not None:
        assert lists[found]
