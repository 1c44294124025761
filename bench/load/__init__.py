"""Load programs, each a process of its own: paced client, SSE backend, SSE client, idle connections, wrk script."""
