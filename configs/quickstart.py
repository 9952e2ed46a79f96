"""x."""
from lottery_jax import recipes


def get_config():
    c = recipes.quickstart()
    return c
