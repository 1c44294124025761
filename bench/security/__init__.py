"""What security costs: the policies, tokens, windows and counters of its scenarios."""
