"""Ways to damage bytes and JSON, each a function of a random generator and of a value."""

import copy
import json

# Replacements for a JSON value; `Raw` is put into the text as it is.


class Raw(str):
    """Text that `dumps` writes without quotes."""


VALUES = [
    None, True, False, 0, -1, 1, 7, 10**9, -(10**9), 2**31, 2**63, 10**30, 10**400, 0.0, -0.5,
    1e-300, 1e300, "", "x", "float32", "vgg19", "\x1b[2J\x1b[1;31mred\x07", "\x9b2J", "a\nb\r\tc",
    "\u202eleft", "\ud800", "../../canary/kept", "/etc/hostname", "a\0b", "é" * 2000, [], {}, [[]],
    [None], [1, 2, 3, 4], {"a": {"b": []}}, [10**12] * 3, Raw("NaN"), Raw("Infinity"), Raw("1e999"),
    Raw("-Infinity"), Raw("9" * 5000), Raw("[" * 60 + "]" * 60), Raw("[" * 900 + "]" * 900),
    Raw("[" * 100_000 + "]" * 100_000), Raw('{"a":' * 500 + "1" + "}" * 500), Raw("'x'"), Raw(""),
    Raw("1 2"), Raw('"\\ud800\\u0000"'),
]  # fmt: skip

NUMBERS = [0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]


def damaged_bytes(rng, data):
    """Return `data` with one kind of damage, and a description of it."""
    n = len(data)
    at = rng.randrange(n + 1)
    length = min(rng.choice([1, 2, 4, 8, 64, 512, n]), n)
    kind = rng.choice(
        ["flip", "flip", "flip", "flips", "cut", "cut", "insert", "remove", "double", "fill", "number",
         "swap", "random", "empty", "append"]
    )  # fmt: skip
    out = bytearray(data)
    if kind in ("flip", "flips") and n:
        for _ in range(1 if kind == "flip" else rng.randrange(2, 20)):
            out[rng.randrange(n)] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del out[at:]
    elif kind == "insert":
        out[at:at] = rng.randbytes(length)
    elif kind == "remove":
        del out[at : at + length]
    elif kind == "double":
        out[at:at] = out[at : at + length]
    elif kind == "fill":
        part = len(out[at : at + length])
        out[at : at + length] = rng.choice([bytes(part), b"\xff" * part, rng.randbytes(part)])
    elif kind == "number":
        width = rng.choice([2, 4, 8])
        number = rng.choice(NUMBERS) % 256**width
        out[at : at + width] = number.to_bytes(width, rng.choice(["little", "big"]))
    elif kind == "swap":
        other = rng.randrange(n + 1)
        a, b = bytes(out[at : at + length]), bytes(out[other : other + length])
        out[at : at + length], out[other : other + length] = b, a
    elif kind == "random":
        out = bytearray(rng.randbytes(rng.choice([1, 10, 100, n])))
    elif kind == "empty":
        out.clear()
    elif kind == "append":
        out += rng.randbytes(length)
    return bytes(out), f"{kind} at {at}, {length} bytes of {n}"


def places(value, path=()):
    """Yield the (container, key) of everything in a JSON value."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def damaged_json(rng, value):
    """Return a copy of a JSON value with one place changed, and a description of the change."""
    value = copy.deepcopy(value)
    container, key = rng.choice(list(places(value)))
    kind = rng.choice(
        ["replace", "replace", "replace", "replace", "remove", "rename", "add", "swap", "number"]
    )
    if kind == "replace":
        container[key] = rng.choice(VALUES)
    elif kind == "remove":
        del container[key]
    elif kind == "rename" and isinstance(container, dict):
        container[rng.choice(["", "x", "metadata", "\x1b[2J", key.upper()])] = container.pop(key)
    elif kind == "add" and isinstance(container, dict):
        container[rng.choice(["x", "", "parent", "name", "\x1b]0;title\x07"])] = rng.choice(VALUES)
    elif kind == "add":
        container.insert(key, rng.choice(VALUES))
    elif kind == "swap":
        other, other_key = rng.choice(list(places(value)))
        theirs = copy.deepcopy(other[other_key])
        other[other_key] = copy.deepcopy(container[key])
        if container is not other:  # one of them may be in the other
            container[key] = theirs
    elif kind == "number" and type(container[key]) in (int, float):
        container[key] = rng.choice([container[key] + 1, -container[key], container[key] * 2, 1e18])
    return value, f"{kind} {key!r}"


def dumps(value):
    """Return a value as JSON text, with `Raw` parts as they are."""
    raw = []

    def marked(value):
        if isinstance(value, Raw):
            raw.append(str(value))
            return f"<raw {len(raw) - 1}>"
        if isinstance(value, dict):
            return {key: marked(part) for key, part in value.items()}
        return [marked(part) for part in value] if isinstance(value, list) else value

    text = json.dumps(marked(value))
    for i, part in enumerate(raw):
        text = text.replace(f'"<raw {i}>"', part)
    return text


def damaged_text(rng, text):
    """Return bytes of a JSON text that is not UTF-8 or has a key twice, and a description."""
    data = text.encode("utf-8", "surrogatepass")
    at = rng.randrange(len(data))
    invalid = rng.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8"])
    kinds = {
        "invalid UTF-8": data[:at] + invalid + data[at:],
        "a mark of UTF-8": b"\xef\xbb\xbf" + data,
        "UTF-16": data.decode("utf-8", "replace").encode("utf-16"),
        "a key twice, the first wrong": data.replace(b"{", b'{"density": 0.125, ', 1),
        "a key twice, the last wrong": data[: data.rindex(b"}")] + b', "density": 0.125}',
        "nothing but spaces": b" " * len(data),
        "two values": data + data,
        "a zero": data[:at] + b"\0" + data[at:],
    }  # fmt: skip
    kind = rng.choice(list(kinds))
    return kinds[kind], kind
