"""The parts of the benchmark that are neither a peer nor a load program: processes, clocks, counters, reports."""
