"""The table of keys: what it says, and the page made of it."""

import re
import subprocess
import sys

from lottery_jax import config as configuration
from lottery_jax.datasets import BUILT_IN
from lottery_jax.datasets.dataset import AUGMENTATIONS
from lottery_jax.models import DTYPES, MODELS
from lottery_jax.pruning.controls import CONTROLS
from lottery_jax.pruning.scores import SCORES
from lottery_jax.training.optim import OPTIMIZERS, SCHEDULES
from tests.helpers import ROOT


def test_the_page_of_keys_is_that_of_the_table():
    """Made by the command, which needs no JAX."""
    code = (
        "import runpy, sys; runpy.run_module('lottery_jax.config', run_name='__main__')\n"
        "assert 'jax' not in sys.modules"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / "config.md").read_text() == made.stdout
    for name in configuration.KEYS:
        assert made.stdout.count(f"\n| `{name}`") == 1


def test_a_key_that_takes_names_of_a_table_lists_them():
    for key, names in {
        "data.name": BUILT_IN,
        "model.name": MODELS,
        "model.dtype": DTYPES,
        "optimizer.name": OPTIMIZERS,
        "optimizer.schedule": SCHEDULES,
        "ladder.scores": SCORES,
        "controls": CONTROLS,
    }.items():
        words = set(re.findall(r"\w+", configuration.KEYS[key].meaning))
        assert set(names) <= words, key
    assert set(configuration.KEYS["data.augment"].rule.choices) == {"auto", *AUGMENTATIONS}


def test_every_row_of_the_table_is_legal_and_says_what_it_means():
    for name, key in configuration.KEYS.items():
        key.rule.check(name, key.default)
        assert key.meaning.endswith(".") and key.rule.text, name
