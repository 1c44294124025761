"""What a worker runs: the plan it is given, the snapshot it compiles from it."""
