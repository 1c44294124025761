"""Many targets behind one MCP endpoint: names and URIs, merged lists and capabilities, the catalogue. Opens nothing itself."""
