"""What operators see: metrics, logs, and what is kept out of both."""
