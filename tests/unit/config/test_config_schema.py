"""The JSON schema, the shipped files, and the list of what is not implemented yet."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

import agw.config
from agw.config import load_file
from agw.config.known import KEYS, VALUES
from agw.config.modelling import Model
from agw.config.schema import SCHEMA_ID, json_schema, schema_text

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "config" / "examples").glob("*.yaml"))
MODELS = [importlib.import_module(f"agw.config.{each.name}") for each in pkgutil.iter_modules(agw.config.__path__) if each.name.startswith("model")]
STRUCTS = {
    item.__name__: item
    for module in MODELS
    for item in vars(module).values()
    if isinstance(item, type) and issubclass(item, Model) and item is not Model
}
REFERENCE = os.environ.get("AGW_REFERENCE", "")

# Struct -> type of agentgateway's schema; "" is its top level.
COUNTERPARTS = {
    "AccessLog": "LoggingPolicy", "ApiKey": "LocalAPIKey", "ApiKeys": "LocalAPIKeys", "AuthzProtocol": "ExtAuthzProtocol", "BasicAuth": "LocalBasicAuth",
    "BodyOptions": "BodyOptions", "CacheConfig": "CacheConfig", "DocumentSource": "FileInlineOrRemote",
    "ExtAuthz": "LocalExplicitOrConditional_ExtAuthz", "Oidc": "LocalOidcConfig", "ServicePolicies": "SimpleLocalBackendPolicies",
    "BackendDefaults": "BackendConfig", "BackendPolicies": "LocalBackendPolicies",
    "BackendTarget": "BackendTarget", "Bind": "LocalBind", "BindListener": "LocalListener", "BindRoute": "LocalRoute",
    "Config": "", "Cors": "CorsSerde", "Csrf": "Csrf", "DirectResponse": "LocalExplicitOrConditional_DirectResponse",
    "Dns": "RawDnsConfig", "FrontendHttp": "FrontendHTTP", "FrontendPolicies": "LocalFrontendPolicies",
    "Gateway": "LocalGateway", "GatewayListener": "LocalGatewayListener", "GatewayPolicies": "LocalGatewayPolicy",
    "GatewayTarget": "ListenerTarget", "HeaderModifier": "HeaderModifier", "JwtAuth": "LocalJwtConfig", "JwtProvider": "ProviderConfig",
    "JwtValidationOptions": "JWTValidationOptions", "JwksSource": "FileInlineOrRemote", "Location": "AuthorizationLocation", "Logging": "RawLogging",
    "BackendTls": "LocalBackendTLS", "McpAuthentication": "LocalMcpAuthentication", "McpProvider": "McpIDP",
    "McpBackend": "LocalMcpBackend", "McpSettings": "RawMcpConfig",
    "McpTarget": "LocalMcpTarget", "Metrics": "RawMetrics", "ServerTls": "LocalTLSServerConfig", "SessionKeys": "RawSession",
    "NamedBackend": "FullLocalBackend", "PolicyName": "ResourceName", "PolicyTarget": "PolicyTarget",
    "ProcessConfig": "RawConfig", "RequestRedirect": "RequestRedirect", "Route": "LocalAttachedRoute", "RuleSet": "RuleSet", "RuleEntry": "RuleSerde",
    "RouteBackend": "LocalRouteBackend", "RouteMatch": "RouteMatch", "RoutePolicies": "FilterOrPolicy",
    "RateLimitDescriptor": "DescriptorEntry", "RemoteRateLimit": "LocalExplicitOrConditional_RemoteRateLimit",
    "LocalRateLimit": "RateLimitSpec", "DescriptorPart": "KV", "RouteTarget": "RouteName", "SimpleMcp": "LocalSimpleMcpConfig",
    "TargetPolicies": "SimpleLocalBackendPolicies",
    "ActorToken": "ActorTokenSpec", "CrossAppAccessAuth": "CrossAppAccessAuth", "CrossAppAccessEndpoint": "CrossAppAccessEndpoint",
    "BackendAuth": "BackendAuthCompat", "ExtraCredential": "BackendAuthCredential", "JwtSignAuth": "JwtSignAuth",
    "OAuthClientAuth": "OAuthClientAuth", "OAuthTokenExchangeAuth": "OAuthTokenExchangeAuth", "SubjectToken": "TokenSpec",
    "TokenCacheConfig": "TokenCacheConfig", "TokenSource": "AuthorizationLocation",
    "TargetedPolicy": "LocalPolicy", "Timeout": "TimeoutPolicy", "UrlRewrite": "UrlRewrite",
}  # fmt: skip


def test_the_generated_file_is_fresh() -> None:
    """Regenerate with: python -c 'from agw.config.schema import schema_text; print(schema_text(), end="")'"""
    assert (ROOT / "config" / "agw.schema.json").read_text() == schema_text()


def test_the_schema_says_what_it_is() -> None:
    schema = json_schema()
    assert schema["$id"] == SCHEMA_ID == "urn:agw:config"
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["$ref"] == "#/$defs/Config"
    assert schema["$defs"]["Config"]["additionalProperties"] is False


def test_every_field_has_a_description() -> None:
    for name, definition in json_schema()["$defs"].items():
        assert definition["description"], name
        for key, field in definition["properties"].items():
            assert field.get("description"), f"{name}.{key}"


def test_our_own_keys_are_marked() -> None:
    definitions = json_schema()["$defs"]
    assert definitions["Gateway"]["properties"]["address"]["x-agw-extension"] is True
    assert definitions["FrontendHttp"]["properties"]["maxHeadBytes"]["x-agw-extension"] is True
    assert "x-agw-extension" not in definitions["Gateway"]["properties"]["port"]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_validate_against_the_schema(file: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(json_schema()).validate(load_file(file, {}).document.tree)


def test_the_tables_name_structs_and_keys_that_exist_once() -> None:
    for name, keys in KEYS.items():
        fields = {field.encode_name for field in msgspec.structs.fields(STRUCTS[name])}
        assert not fields & keys, name
    for place in VALUES:
        name, key = place.split(".")
        assert key in {field.encode_name for field in msgspec.structs.fields(STRUCTS[name])}


@pytest.mark.skipif(not REFERENCE, reason="AGW_REFERENCE does not name a directory with agentgateway's schema")
def test_every_key_of_agentgateway_is_implemented_or_known() -> None:
    schema = json.loads((Path(REFERENCE) / "agentgateway-config.schema.json").read_text())
    definitions = schema["$defs"]

    def keys(node: dict[str, Any]) -> set[str]:
        if "$ref" in node:
            return keys(definitions[node["$ref"].rsplit("/", 1)[1]])
        nested = [keys(item) for word in ("anyOf", "oneOf", "allOf") for item in node.get(word, ())]
        return set(node.get("properties", ())).union(*nested)

    for name, counterpart in COUNTERPARTS.items():
        fields = msgspec.structs.fields(STRUCTS[name])
        mine = {field.encode_name for field in fields}
        theirs = keys(definitions[counterpart] if counterpart else schema)
        assert theirs == (theirs & mine) | KEYS.get(name, frozenset()), name
        ours = {
            key
            for key, field in json_schema()["$defs"].get(name, {"properties": {}})["properties"].items()
            if field.get("x-agw-extension")
        }
        if name in json_schema()["$defs"]:
            assert mine - theirs == ours, name
