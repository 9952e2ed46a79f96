"""What the machine and the operating system give: files, locks, signals, devices, settings of JAX."""
