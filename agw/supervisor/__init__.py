"""The parent of all processes: opens sockets, forks, watches, reloads, drains. Never serves a request itself."""
