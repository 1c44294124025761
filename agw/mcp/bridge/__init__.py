"""What one protocol era says, said in the other. Pure functions; nothing here waits, logs or opens anything."""
