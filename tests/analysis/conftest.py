"""A machine with one device, whose programs runs of other tests have compiled already."""

import jax
import pytest


@pytest.fixture(scope="module")
def alone():
    """One of the fake devices is all there is, for runs as for the analyses that follow them."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: first)
        yield
