"""Keys and values agentgateway knows and agw does not implement yet, by model struct.

A file that uses one is refused as exactly that, not as a typing error. Names only; kept in step with agentgateway's
schema by a test that runs where the schema is at hand. Implementing a key means moving it from here into the model.
"""

from __future__ import annotations

from types import MappingProxyType

_AUTH = "extProc transformations"
_UPSTREAM = "backendTunnel transformations"


def _table(**keys: str) -> MappingProxyType[str, frozenset[str]]:
    return MappingProxyType({name: frozenset(text.split()) for name, text in keys.items()})


KEYS = _table(
    Config="llm routeGroups services tcpRoutes ui workloads",
    ProcessConfig=(
        "additionalTrustDomains caAddress caAuthToken clusterId connectionMinTerminationDeadline customFunctions "
        "database enableIpv6 gateway hbone histograms localXdsPath modelCatalog namespace network sensitiveHeaders "
        "serviceAccount skipValidateTrustDomain spiffe standardAttributes storage trustDomain "
        "xdsAddress xdsAuthToken"
    ),
    Logging="database",
    Metrics="fields remove",
    BackendDefaults="keepalives",
    Dns="edns0 lookupFamily",
    FrontendHttp=(
        "http2ConnectionWindowSize http2FrameSize http2KeepaliveInterval http2KeepaliveTimeout http2MaxHeaderSize "
        "http2WindowSize"
    ),
    AccessLog="database otlp",
    FrontendPolicies="connect logging networkExtAuthz proxy proxyProtocol tcp tls tracing",
    DirectResponse="bodyExpression conditional",
    RoutePolicies=(
        f"{_AUTH} {_UPSTREAM} a2a ai buffer delay mcpGuardrails requestMirror retry"
    ),
    BackendPolicies=(
        f"{_UPSTREAM} a2a ai health http inferenceRouting mcpGuardrails "
        "sessionAffinity tcp"
    ),
    TargetPolicies=f"{_UPSTREAM} http tcp",
    GatewayPolicies=_AUTH,
    RouteTarget="kind",
    PolicyTarget="listenerSet",
    BackendTarget="service",
    BackendName="section",
    RouteBackend="ai aws dynamic internal invalid routeGroup service",
    NamedBackend="ai aws internal",
    GatewayListener=_AUTH,
    Gateway=_AUTH,
    BindListener="tcpRoutes",
    ServerTls="cipherSuites keyExchangeGroups spiffe",
    ApiKey="allowedModels",
    ServicePolicies="backendAuth backendTunnel http requestHeaderModifier tcp transformations",
    AwsAuth="assumeRole",
    BackendAuth="azure gcp",
    OAuthClientAuth="certificate certificateHeader",
    ActorToken="enforceMayAct",
    BackendTls="keyExchangeGroups spiffe",
)

VALUES = _table(
    **{
        "Gateway.protocol": "TCP TLS",
        "GatewayListener.protocol": "TCP TLS",
        "Logging.format": "text",
        "BindListener.protocol": "TLS TCP HBONE",
        "Bind.tunnelProtocol": "hboneWaypoint hboneGateway proxy connect",
        "Bind.mode": "internal",
        "LocalRateLimit.type": "tokens",
        "RateLimitDescriptor.type": "tokens",
        "ServerTls.mode": "dynamicCa",
    }
)
