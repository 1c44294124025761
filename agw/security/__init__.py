"""Who is calling, what they may do, how much of it, and with whose credentials."""
