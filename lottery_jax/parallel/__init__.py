"""Devices, replicates that train side by side, and several processes."""
