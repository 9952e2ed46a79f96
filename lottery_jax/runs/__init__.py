"""Runs on the disk: ladders, transfers and matrices of them."""
