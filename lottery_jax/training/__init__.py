"""Training masked networks: state, loss, compiled steps, and the loop over epochs."""
