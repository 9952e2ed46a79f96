"""Training one masked network."""
