"""The vision transformer: what PyTorch's own encoder computes, a ladder, and what scores see of it."""

import jax
import numpy as np
import pytest

import lottery_jax as lj
from lottery_jax.models import build_model, init_variables, layer_names
from lottery_jax.models.vit import ViT
from lottery_jax.pruning import masks
from tests.helpers import load_trained, make_tiny_config, pruned_values


@pytest.mark.slow
def test_the_forward_pass_is_that_of_pytorchs_encoder():
    """Its layers by PyTorch's names, with the same weights; the patches as a product by hand."""
    torch = pytest.importorskip("torch")
    model = ViT(5, size=12, heads=3, depth=2)
    variables = jax.device_get(init_variables(model, jax.random.key(0), (8, 8, 2)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: rng.normal(0, 0.3, a.shape).astype(np.float32), variables["params"]
    )
    size, heads = params["cls_token"].shape[-1], model.heads
    images = rng.normal(size=(3, 8, 8, 2)).astype(np.float32)

    def tensor(array):
        return torch.from_numpy(np.array(array))

    def load(layer, tree):
        with torch.no_grad():
            layer.weight.copy_(tensor(tree["kernel"].T if "kernel" in tree else tree["scale"]))
            layer.bias.copy_(tensor(tree["bias"]))

    patches = images.reshape(3, 2, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4, 5).reshape(3, 4, -1)
    embed = params["patch_embed"]
    x = patches @ embed["kernel"].reshape(-1, size) + embed["bias"]
    x = np.concatenate([np.repeat(params["cls_token"], 3, 0), x], 1) + params["pos_embed"]
    x = tensor(x)
    for i in range(model.depth):
        block = params[f"block{i + 1}"]
        layer = torch.nn.TransformerEncoderLayer(
            size, heads, 4 * size, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        )
        with torch.no_grad():
            layer.self_attn.in_proj_weight.copy_(tensor(block["attn"]["qkv"]["kernel"].T))
            layer.self_attn.in_proj_bias.copy_(tensor(block["attn"]["qkv"]["bias"]))
        load(layer.self_attn.out_proj, block["attn"]["proj"])
        for name, ours in (("linear1", "fc1"), ("linear2", "fc2"), ("norm1",) * 2, ("norm2",) * 2):
            load(getattr(layer, name), block[ours])
        x = layer(x)
    norm, head = torch.nn.LayerNorm(size, 1e-6), torch.nn.Linear(size, 5)
    load(norm, params["norm"])
    load(head, params["head"])
    expected = head(norm(x)[:, 0]).detach().numpy()
    found = model.apply({"params": params}, images, train=False)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5 * np.abs(expected).max())


def test_an_image_that_patches_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        layer_names(build_model("vit_tiny", 10), (28, 30, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "score",
    ["magnitude", "snip", *(pytest.param(s, marks=pytest.mark.long) for s in ("grasp", "synflow"))],
)
def test_a_ladder_by_each_score_and_its_portable_ticket(tmp_path, score, one_device):
    at_init = {"ladder.draw": "init", "ladder.rewind": "0"} if score != "magnitude" else {}
    config = make_tiny_config(
        **{"ladder.scores": score, "ladder.levels": 1, "train.epochs": 1,
           "ladder.prune_fraction": 0.5, "ladder.rewind": "3st", "ladder.rounds": 2, **at_init},
    )  # fmt: skip
    model = ViT(10, size=12, heads=3, depth=2)
    rows = lj.run_ladder(config, tmp_path / "run", model=model, devices=one_device)
    total = rows[0]["weights_total"]
    # Two rounds each keep the square root of a half, rounded.
    assert abs(rows[1]["weights_remaining"] - total / 2) <= 1
    ticket = load_trained(tmp_path / "run", 0, 1)
    assert not pruned_values(ticket.mask, ticket.trained).any()
    lj.save_ticket(tmp_path / "vit.safetensors", ticket)
    again = lj.load_ticket(tmp_path / "vit.safetensors")
    assert again.metadata["sha256"] == ticket.metadata["sha256"]
    assert not masks.collapsed_layers(ticket.mask) or score == "synflow"
