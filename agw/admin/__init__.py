"""What the helper process serves: administration, metrics, probes. Nothing here is on the path of a request."""
