"""The subcommands of `python -m lottery_jax.tickets`, a module each."""
