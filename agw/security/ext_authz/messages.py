"""The messages of `envoy.service.auth.v3.Authorization/Check`, as far as agw speaks them.

Fields and numbers are those of Envoy's API v3; what agw does not use is left out, and protobuf carries it along unread. The descriptors
are made here, in a pool of their own, so that Envoy's own generated classes may be loaded beside them.

Source: envoy/service/auth/v3/{external_auth,attribute_context}.proto, envoy/config/core/v3/{base,address}.proto,
envoy/type/v3/http_status.proto, google/rpc/status.proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2, timestamp_pb2, wrappers_pb2

CHECK = "/envoy.service.auth.v3.Authorization/Check"

_AUTH, _CORE = "envoy.service.auth.v3", "envoy.config.core.v3"
_CONTEXT = f"{_AUTH}.AttributeContext"
_SCALARS = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
}

# Message -> fields as (name, number, type); `*` is repeated, `map:T` a map from text. Enums travel as int32.
_MESSAGES: dict[str, list[tuple[str, int, str]]] = {
    f"{_CORE}.SocketAddress": [("address", 2, "string"), ("port_value", 3, "uint32")],
    f"{_CORE}.Address": [("socket_address", 1, f"{_CORE}.SocketAddress")],
    f"{_CORE}.Metadata": [("filter_metadata", 1, "map:google.protobuf.Struct")],
    f"{_CORE}.HeaderValue": [("key", 1, "string"), ("value", 2, "string"), ("raw_value", 3, "bytes")],
    f"{_CORE}.HeaderValueOption": [
        ("header", 1, f"{_CORE}.HeaderValue"), ("append", 2, "google.protobuf.BoolValue"), ("append_action", 3, "int32"),
    ],
    "envoy.type.v3.HttpStatus": [("code", 1, "int32")],
    "google.rpc.Status": [("code", 1, "int32"), ("message", 2, "string")],
    f"{_CONTEXT}.Peer": [("address", 1, f"{_CORE}.Address"), ("principal", 4, "string")],
    f"{_CONTEXT}.HttpRequest": [
        ("id", 1, "string"), ("method", 2, "string"), ("headers", 3, "map:string"), ("path", 4, "string"), ("host", 5, "string"),
        ("scheme", 6, "string"), ("size", 9, "int64"), ("protocol", 10, "string"), ("body", 11, "string"), ("raw_body", 12, "bytes"),
    ],
    f"{_CONTEXT}.Request": [("time", 1, "google.protobuf.Timestamp"), ("http", 2, f"{_CONTEXT}.HttpRequest")],
    _CONTEXT: [
        ("source", 1, f"{_CONTEXT}.Peer"), ("destination", 2, f"{_CONTEXT}.Peer"), ("request", 4, f"{_CONTEXT}.Request"),
        ("context_extensions", 10, "map:string"), ("metadata_context", 11, f"{_CORE}.Metadata"),
    ],
    f"{_AUTH}.CheckRequest": [("attributes", 1, _CONTEXT)],
    f"{_AUTH}.DeniedHttpResponse": [
        ("status", 1, "envoy.type.v3.HttpStatus"), ("headers", 2, f"*{_CORE}.HeaderValueOption"), ("body", 3, "string"),
    ],
    f"{_AUTH}.OkHttpResponse": [
        ("headers", 2, f"*{_CORE}.HeaderValueOption"), ("dynamic_metadata", 3, "google.protobuf.Struct"), ("headers_to_remove", 5, "*string"),
        ("response_headers_to_add", 6, f"*{_CORE}.HeaderValueOption"),
    ],
    f"{_AUTH}.CheckResponse": [
        ("status", 1, "google.rpc.Status"), ("denied_response", 2, f"{_AUTH}.DeniedHttpResponse"), ("ok_response", 3, f"{_AUTH}.OkHttpResponse"),
        ("dynamic_metadata", 4, "google.protobuf.Struct"),
    ],
}  # fmt: skip


def _build() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    needed = [struct_pb2, timestamp_pb2, wrappers_pb2]
    for module in needed:
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    for package in dict.fromkeys(_package(name) for name in _MESSAGES):
        file = descriptor_pb2.FileDescriptorProto(name=f"agw/{package}.proto", package=package, syntax="proto3")
        file.dependency.extend(module.DESCRIPTOR.name for module in needed)
        others = [other for other in dict.fromkeys(_package(name) for name in _MESSAGES) if other != package]
        file.dependency.extend(f"agw/{other}.proto" for other in others if package == _AUTH)
        for name, fields in _MESSAGES.items():
            if _package(name) == package:
                _message(file, name, fields)
        pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in _MESSAGES}


def _package(name: str) -> str:
    return next(package for package in (_AUTH, _CORE, "envoy.type.v3", "google.rpc") if name.startswith(package + "."))


def _message(file: descriptor_pb2.FileDescriptorProto, name: str, fields: list[tuple[str, int, str]]) -> None:
    """Add one message; those of AttributeContext are inside it."""
    package = _package(name)
    outer, _, inner = name.removeprefix(package + ".").partition(".")
    if inner:
        around = next((item for item in file.message_type if item.name == outer), None) or file.message_type.add(name=outer)
        target = around.nested_type.add(name=inner)
    else:
        target = next((item for item in file.message_type if item.name == outer), None) or file.message_type.add(name=outer)
    for field, number, kind in fields:
        added = target.field.add(name=field, number=number, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL)
        if kind.startswith("map:"):
            entry = target.nested_type.add(name="".join(word.capitalize() for word in field.split("_")) + "Entry")
            entry.options.map_entry = True
            for part, part_number, part_kind in (("key", 1, "string"), ("value", 2, kind[4:])):
                _typed(entry.field.add(name=part, number=part_number, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL), part_kind)
            _typed(added, f"{name}.{entry.name}")
        else:
            _typed(added, kind.removeprefix("*"))
        if kind.startswith(("*", "map:")):
            added.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


def _typed(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{kind}"


_CLASSES = _build()

CheckRequest: Any = _CLASSES[f"{_AUTH}.CheckRequest"]
"""What is asked."""

CheckResponse: Any = _CLASSES[f"{_AUTH}.CheckResponse"]
"""What is answered."""
