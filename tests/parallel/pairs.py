"""Two processes of one run on this machine."""

import socket
import subprocess

from tests.faults import runs
from tests.helpers import COMPILE_QUICKLY


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def devices(cache, count):
    """An environment with so many fake devices in each process."""
    flags = f"--xla_force_host_platform_device_count={count} {COMPILE_QUICKLY}"
    return runs.environment(cache, XLA_FLAGS=flags)


def start_processes(workdir, overrides, env, cwd, *, elsewhere=None, slurm=False):
    """Starts the processes of one run: two with the same overrides, or one for each of a list.

    Their output goes to files beside its directory. All but the first look for that `elsewhere`.
    They are told of each other by flags, or find each other as SLURM's tasks do.
    """
    each = overrides if isinstance(overrides, list) else [overrides] * 2
    port, started, count = free_port(), [], len(each)
    for i, own in enumerate(each):
        with (cwd / f"{workdir.name}.{i}.out").open("w") as out:
            folder = elsewhere if elsewhere and i else workdir
            command, environment = [*runs.command(folder, own), "--distributed"], env
            if slurm:
                task = {"JOB_ID": port, "STEP_NODELIST": "localhost", "NTASKS": count, "PROCID": i,
                        "LOCALID": i}  # fmt: skip
                environment = {**env, **{f"SLURM_{key}": str(v) for key, v in task.items()}}
            else:
                command += [
                    f"--process={i}",
                    f"--processes={count}",
                    f"--coordinator=localhost:{port}",
                ]
            started.append(
                runs.start(command, environment, cwd, stdout=out, stderr=subprocess.STDOUT)
            )
    return started


def ends(processes, timeout=240):
    """Their exit statuses."""
    try:
        return [process.wait(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def said(workdir, cwd, i):
    """What a process printed, without what the collectives' library does."""
    lines = (cwd / f"{workdir.name}.{i}.out").read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if "[Gloo]" not in line)
