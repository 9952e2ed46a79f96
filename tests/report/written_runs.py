"""Run directories whose curve.csv is written by hand."""

import json

from lottery_jax.curve import CURVE_COLUMNS

ROWS = """
0,0,winning,1000,1000,1.0,0.90,0.3,0.1,2,1.0
1,0,winning,1000,1000,1.0,0.92,0.3,0.1,2,1.0
0,1,winning,1000,100,0.1,0.89,0.3,0.1,2,1.0
1,1,winning,1000,100,0.1,0.91,0.3,0.1,2,1.0
0,1,random,1000,100,0.1,0.50,0.3,0.1,2,1.0
1,1,random,1000,100,0.1,0.60,0.3,0.1,2,1.0
""".lstrip()


def make_run(path, rows=ROWS, model="lenet_300_100", data="digits", **more):
    path.mkdir(parents=True)
    (path / "curve.csv").write_text(",".join(CURVE_COLUMNS) + "\n" + rows)
    config = {"model": {"name": model}, "data": {"name": data}, "optimizer": {"name": "sgd"}}
    (path / "config.json").write_text(json.dumps({"config": {**config, **more}}))
    return path


def rows(*points, control="winning", seed=0):
    """Return rows of curve.csv from (level, density, accuracy)."""
    return "".join(
        f"{seed},{level},{control},1000,{round(1000 * density)},{density},{accuracy},0.3,0.1,2,1\n"
        for level, density, accuracy in points
    )
