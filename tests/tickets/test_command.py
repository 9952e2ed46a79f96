"""The command: what it prints, what it writes, and one line for a mistake."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from lottery_jax import tickets
from lottery_jax.tickets.__main__ import main
from tests.helpers import synthetic_ticket

TICKET = "seed_0/level_03/ticket"


def example(draw, name="lenet_300_100", **metadata):
    ticket = synthetic_ticket(name, (8, 8, 1), 0.25, seed=draw, width=0.1)
    return dataclasses.replace(ticket, metadata={**ticket.metadata, **metadata})


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    """Two tickets as a run keeps them, and a portable file of a third."""
    folder = tmp_path_factory.mktemp("run")
    whole = {"seed": 0, "level": 3, "rewind_step": 22, "result": {"test_accuracy": 0.9876}}
    method = {"method": {"scores": "magnitude", "scope": "global"}}
    tickets.save_ticket(folder / TICKET, example(1, control="winning", **whole, **method))
    tickets.save_ticket(folder / "seed_0/level_03/random", example(2, control="random", **whole))
    tickets.save_portable(folder / "shared.safetensors", example(3, result={}))
    (folder / "other.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")  # no tensors, no ticket
    return folder


@pytest.fixture
def copy(run_directory, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(run_directory, tmp_path / "run")


@pytest.fixture
def call(capsys):
    """Return a function that runs the command and returns status, stdout and stderr."""

    def called(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        out, error = capsys.readouterr()
        return status, out, error

    return called


@pytest.fixture
def refused(call):
    """Return a function that asserts that a command is a mistake, reported in one line."""

    def check(says, *arguments):
        status, out, error = call(*arguments)
        assert (status, out) == (2, "") and error.count("\n") == 1, error
        assert error.startswith("error: ") and says in error, error

    return check


def test_list_has_a_line_for_each_ticket(run_directory, call):
    status, out, error = call("list", run_directory)
    assert (status, error) == (0, "")
    header, _, *lines = [line.split() for line in out.splitlines() if line.strip()]
    assert header == ["seed", "level", "control", "density", "accuracy", "path"]
    assert lines == [
        ["0", "3", "random", "25.00%", "98.76%", f"{run_directory}/seed_0/level_03/random"],
        ["0", "3", "winning", "25.00%", "98.76%", f"{run_directory}/{TICKET}"],
        ["25.00%", f"{run_directory}/shared.safetensors"],
    ]


def test_what_a_killed_process_left_is_no_ticket(copy, call):
    listed = call("list", copy)
    unfinished = copy / "seed_0/level_03/.ticket.host-7-abcd1234.tmp"
    shutil.copytree(copy / TICKET, unfinished)
    assert call("list", copy) == listed


def test_list_and_verify_say_what_is_wrong_and_go_on(copy, call):
    (copy / "shared.safetensors").write_bytes(b"not safetensors")
    file = copy / "seed_0/level_03/random/metadata.json"
    file.write_text(file.read_text().replace('"weights_remaining": ', '"weights_remaining": 1'))
    status, out, error = call("list", copy)
    assert status == 1 and "random" not in out and "winning" in out
    errors = error.splitlines()
    assert len(errors) == 2 and errors[1].startswith(f"error: {copy}/shared.safetensors: is not")
    assert errors[0].startswith(f"error: {file}: its metadata is damaged (its SHA-256")
    status, out, error = call("verify", copy, copy / TICKET)
    assert (status, error) == (1, "")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["bad", f"{file}:"],
        ["ok", f"{copy}/{TICKET}"],
        ["bad", f"{copy}/shared.safetensors:"],
    ]
    assert "its metadata is damaged" in out and "not a readable safetensors file" in out


def test_links_to_folders_are_followed_once_and_clutter_is_passed_over(copy, tmp_path, call):
    """Users make such links: to runs on another disk, back up, and two to the same run."""
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "linked").symlink_to(copy)
    (runs / "again").symlink_to(copy)
    (copy / "up").symlink_to(runs)
    (copy / "._shared.safetensors").write_bytes(b"of a Mac's file manager")
    (copy / "._seed_0").mkdir()
    (copy / "._seed_0" / "metadata.json").write_text("{}")
    _, expected, _ = call("verify", copy)
    status, out, error = call("verify", runs)
    assert (status, error) == (0, "")
    found = {line.split()[1].removeprefix(f"{runs}/") for line in out.splitlines()}
    assert {name.partition("/")[2] for name in found} == {
        "seed_0/level_03/random", TICKET, "shared.safetensors",
    }  # fmt: skip
    assert len(out.splitlines()) == 3 == len(expected.splitlines())
    assert call("list", runs)[1].count("98.76%") == 2


def test_links_within_a_ticket_are_refused_and_what_to_do_is_said(copy, tmp_path, call):
    """A cache of downloads is made of links to files that have other names."""
    ticket, blobs = copy / TICKET, tmp_path / "blobs"
    blobs.mkdir()
    for number, file in enumerate(p for p in ticket.rglob("*") if p.is_file()):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    status, out, _ = call("verify", copy)
    assert status == 1
    assert f"bad  {ticket}/metadata.json" in out and "is a symbolic link; copy the ticket" in out
    resolved = tmp_path / "resolved"
    shutil.copytree(ticket, resolved)  # as cp -rL does
    assert call("verify", resolved)[0] == 0
    # A portable file may be such a link.
    portable = copy / "shared.safetensors"
    portable.rename(blobs / "portable")
    portable.symlink_to(blobs / "portable")
    assert f"ok   {portable}" in call("verify", copy)[1]


def test_a_folder_that_may_not_be_looked_into_is_not_passed_over(copy, call, refused, monkeypatch):
    closed = copy / "seed_0" / "level_03"

    usual = type(copy).iterdir

    def iterdir(folder):
        if folder == closed:
            raise PermissionError(13, "Permission denied")
        return usual(folder)

    monkeypatch.setattr(type(copy), "iterdir", iterdir)
    refused(f"{closed}: can't be looked into: Permission denied", "verify", copy)


def test_verify_reads_the_arrays(copy, call):
    assert call("verify", copy) == (
        0,
        f"ok   {copy}/seed_0/level_03/random\nok   {copy}/{TICKET}\nok   {copy}/shared.safetensors\n",
        "",
    )
    shutil.rmtree(copy / TICKET / "arrays")
    status, out, _ = call("verify", copy / TICKET)
    assert status == 1 and "not a readable Orbax checkpoint" in out


def test_show_says_what_a_ticket_is(run_directory, call):
    status, out, error = call("show", run_directory / TICKET)
    assert all(line == line.rstrip() for line in out.splitlines())  # a pipe gets no padding
    assert (status, error) == (0, "")
    facts = dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split()) > 1)
    assert facts["network"].startswith("lenet_300_100 (width=0.1")
    assert facts["data"].startswith("digits, mean 0.5, std 0.25")
    assert facts["parameters"].split() == ["2370,", "2320", "of", "them", "prunable"]
    assert facts["density"].split() == ["25.00%,", "580", "weights"]
    assert facts["accuracy"].strip() == "98.76%"
    assert facts["rewind"].split() == ["step", "22"]
    assert facts["method"].strip() == "scores=magnitude, scope=global"
    order = [line.split() for line in out.splitlines()][-4:]
    assert order[:3] == [["dense1", "480", "1920", "25.00%"], ["dense2", "75", "300", "25.00%"],
                         ["head", "25", "100", "25.00%"]]  # fmt: skip
    status, out, _ = call("show", run_directory / "shared.safetensors")
    assert status == 0 and "not known" in out and "control" not in out


def test_show_of_metadata_that_makes_no_sense_is_an_error(copy, refused):
    file = copy / TICKET / "metadata.json"
    whole = json.loads(file.read_text())
    for key, value in [("density", "much"), ("layers", 3), ("sha256", {}), ("mean", 0.5),
                       ("model", {"name": "lenet"}), ("input_shape", ["wide"])]:  # fmt: skip
        file.write_text(json.dumps({**whole, key: value}))
        refused("", "show", copy / TICKET)


def test_compare_prints_the_numbers(run_directory, call):
    a, b = run_directory / TICKET, run_directory / "shared.safetensors"
    status, out, error = call("compare", a, b)
    assert (status, error) == (0, "")
    found = tickets.compare_tickets(tickets.load_ticket(a), tickets.load_ticket(b))
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    for name, overlap in [*found.layers.items(), ("all", found.total)]:
        counts = [overlap.size, overlap.kept_a, overlap.kept_b, overlap.both]
        assert [int(n) for n in lines[name][:4]] == counts
        assert float(lines[name][4]) == pytest.approx(overlap.by_chance, abs=0.06)
        assert float(lines[name][5]) == pytest.approx(overlap.ratio, rel=1e-3)
    assert f"{found.total.jaccard:.4g}" in lines["Jaccard,"]
    assert f"{found.total.same_trained / found.total.both:.2%}" in out
    assert f"{found.effective_density[0]:.2%} and {found.effective_density[1]:.2%}" in out


def test_compare_says_what_it_leaves_out(run_directory, tmp_path, call, refused):
    other = synthetic_ticket("lenet_300_100", (8, 8, 1), 0.25, classes=4, width=0.1)
    tickets.save_portable(tmp_path / "four.safetensors", other)
    status, out, _ = call("compare", run_directory / TICKET, tmp_path / "four.safetensors")
    assert status == 0 and "left out: head" in out and "10x10 in A, 10x4 in B" in out
    tickets.save_portable(tmp_path / "conv2.safetensors", example(1, name="conv2"))
    refused("other networks", "compare", run_directory / TICKET, tmp_path / "conv2.safetensors")


def test_a_ticket_is_exported_and_imported_whole(run_directory, tmp_path, call, refused):
    file, directory = tmp_path / "a.safetensors", tmp_path / "ticket"
    status, out, _ = call("export", run_directory / TICKET, file)
    assert status == 0 and out == f"wrote {file}, {file.stat().st_size} bytes\n"
    assert call("import", file, directory)[0] == 0
    assert tickets.load_ticket(directory).metadata == tickets.read_metadata(run_directory / TICKET)
    # Nothing is replaced without --force.
    before = file.read_bytes()
    other = run_directory / "seed_0/level_03/random"
    refused("--force replaces it", "export", other, file)
    refused("--force replaces it", "import", run_directory / "shared.safetensors", directory)
    assert file.read_bytes() == before and tickets.load_ticket(directory).metadata["seed"] == 0
    assert call("export", other, file, "--force")[0] == 0
    assert tickets.read_metadata(file)["control"] == "random"
    assert call("import", run_directory / "shared.safetensors", directory, "--force")[0] == 0
    assert "seed" not in tickets.load_ticket(directory).metadata


def test_whole_arrays_are_exported(run_directory, tmp_path, call, refused):
    ticket, file = tickets.load_ticket(run_directory / TICKET), tmp_path / "a.safetensors"
    status, out, _ = call("export", run_directory / TICKET, file, "--dense")
    assert status == 0 and out == f"wrote {file}, {file.stat().st_size} bytes\n"
    found = load_file(file)
    assert np.array_equal(found["dense1/kernel"], ticket.trained["dense1"]["kernel"])
    refused("--force replaces it", "export", run_directory / TICKET, file, "--dense")
    for weights, tree in (("start", ticket.params), ("mask", ticket.mask)):
        more = ("--dense", f"--weights={weights}", "--force")
        assert call("export", run_directory / TICKET, file, *more)[0] == 0
        found = load_file(file)
        assert found["head/kernel"].dtype == tree["head"]["kernel"].dtype
        assert np.array_equal(found["head/kernel"], tree["head"]["kernel"])
    refused("is not a ticket", "show", file)


@pytest.mark.slow
def test_masks_are_exported_for_pytorch(tmp_path, call):
    """They fit the weights that are exported beside them."""
    torch = pytest.importorskip("torch")
    ticket = synthetic_ticket("vgg11", (16, 16, 1), 0.25, width=0.05)
    tickets.save_ticket(tmp_path / "a.safetensors", ticket)
    for weights in ("mask", "trained"):
        file = tmp_path / f"{weights}.pth"
        assert call("export", tmp_path / "a.safetensors", file, f"--weights={weights}")[0] == 0
    mask, trained = (
        torch.load(tmp_path / f"{n}.pth", weights_only=True) for n in ("mask", "trained")
    )
    assert all(m.dtype == torch.bool and m.shape == trained[key].shape for key, m in mask.items())
    assert {key for key in trained if key.endswith((".weight", ".bias"))} == mask.keys()
    assert sum(int((~m).sum()) for m in mask.values()) == sum(
        int((~m).sum()) for m in jax.tree.leaves(ticket.mask)
    )
    for key, m in mask.items():
        assert not trained[key][~m].any() and trained[key][m].all()


@pytest.mark.long
def test_to_pytorch_and_back(tmp_path, call, refused):
    torch = pytest.importorskip("torch")
    ticket = synthetic_ticket("vgg11", (32, 32, 3), 0.25, data="cifar10")
    tickets.save_portable(tmp_path / "a.safetensors", ticket)
    trained, start = tmp_path / "trained.pth", tmp_path / "start.pt"
    assert call("export", tmp_path / "a.safetensors", trained)[0] == 0
    assert call("export", tmp_path / "a.safetensors", start, "--weights=start")[0] == 0
    first = torch.load(start, weights_only=True)["features.0.weight"].numpy()
    assert (first.transpose(2, 3, 1, 0) == ticket.params["conv1_1"]["kernel"]).all()
    normal = ("--mean=0.5,0.5,0.5", "--std=0.25,0.25,0.25")
    options = ("--model=vgg11", "--data=cifar10", f"--start={start}", *normal)
    assert call("import", trained, tmp_path / "ticket", *options)[0] == 0
    again = tickets.load_ticket(tmp_path / "ticket")
    hashes = [tickets.tree_hash([t.mask, t.params, t.trained]) for t in (again, ticket)]
    assert hashes[0] == hashes[1]
    assert {key: again.metadata[key] for key in ticket.metadata} == ticket.metadata
    status, out, _ = call("list", tmp_path / "ticket")
    assert status == 0 and "25.00%" in out
    status, out, _ = call("show", tmp_path / "ticket")
    assert status == 0 and "start=start.pt" in out and "not known" in out


def test_mistakes_are_one_line_and_status_2(run_directory, tmp_path, refused):
    ticket, shared = run_directory / TICKET, run_directory / "shared.safetensors"
    new, nothing = tmp_path / "new", tmp_path / "nothing"
    refused("invalid choice: 'frob'", "frob")
    refused("the following arguments are required: FILE", "export", ticket)
    refused("no ticket is there or below", "list", run_directory, tmp_path)
    refused("no ticket is there or below", "verify", nothing)
    refused("is not a ticket", "show", nothing)
    refused("without its metadata", "show", run_directory / "other.safetensors")
    refused("is not a ticket", "compare", ticket, nothing)
    refused("must end in .safetensors", "export", ticket, tmp_path / "a.onnx")
    refused("--weights is for", "export", ticket, tmp_path / "a.safetensors", "--weights=start")
    refused("--dense is for .safetensors", "export", ticket, tmp_path / "a.pth", "--dense")
    refused("invalid choice: 'end'", "export", ticket, tmp_path / "a.pth", "--weights=end")
    refused("not a readable safetensors", "import", tmp_path / "a.safetensors", new)
    refused(
        "for a PyTorch file give --model and --data",
        "import",
        tmp_path / "a.pth",
        new,
        "--model=vgg19",
    )
    refused("--model: is for PyTorch files", "import", shared, new, "--model=vgg19")
    options = ("import", tmp_path / "a.pth", new, "--data=cifar10")
    refused("is not a file", *options, "--model=vgg19")
    refused("--mean and --std must be 3", *options, "--model=vgg19", "--mean=0.5")
    refused("argument --mean: invalid numbers", *options, "--model=vgg19", "--mean=a,b,c")
    refused("height,width,channels", *options, "--model=vgg19", "--input_shape=32,32")
    assert not list(tmp_path.iterdir())
