"""An OpenAPI service seen as MCP tools: its document, the tools made of it, and what a call says over HTTP.

In reading order: `text` (octets to plain values), `document` (references, base path), `schema` (to JSON Schema 2020-12),
`tools` (operations to tools), `parameters` and `call` (arguments to an HTTP request), `result` (the answer to a tool
result), `source` (where the document comes from). Nothing here does I/O but `source`, and nothing knows JSON-RPC.
"""
