"""The machine and the operating system: files, locks, signals, devices, settings of JAX."""
