"""Memory shared by the supervisor, the workers and the helper process."""
