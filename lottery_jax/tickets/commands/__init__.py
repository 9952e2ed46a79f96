"""The subcommands of `python -m lottery_jax.tickets`, one file each."""
