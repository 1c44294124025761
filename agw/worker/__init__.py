"""What runs after the fork: one uvloop loop, one reactor, one slot of the arena."""
