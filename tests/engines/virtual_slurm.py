"""SLURM with two virtual nodes on this machine: its own daemons, keys, ports and folder, removed afterwards.

Debian's package (``slurm-wlm``) allows several ``slurmd`` on one machine. There is no
accounting: ``sacct`` does not answer, as on many small clusters.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NODES = ("virtual1", "virtual2")
_CONFIG = """
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=5
ReturnToService=2
KillWait=10
MinJobAge=20
OverTimeLimit=0
SlurmdParameters=config_overrides
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    """Free ports."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def virtual_slurm(folder: Path, cpus: int = 4) -> Iterator[dict[str, str]]:
    """Start the daemons.

    Args:
        folder: for all their files; its path must be short, because of sockets.
        cpus: that each node reports.

    Yields:
        Environment for ``sbatch`` and similar commands.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    ports = free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=8000"
        for node, port in zip(NODES, ports[1:], strict=True)
    )
    user = os.environ.get("USER") or subprocess.check_output(["id", "-un"], text=True).strip()
    config = folder / "slurm.conf"
    config.write_text(_CONFIG.format(host=host, user=user, folder=folder, ports=ports, nodes=nodes))
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(config)}
    munged = [
        *("munged", "--foreground", "--force", f"--key-file={folder}/munge.key"),
        *(f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"),
        *(f"--seed-file={folder}/munged.seed", f"--log-file={folder}/munged.log", "--num-threads=2"),
    ]
    commands = [munged, ["slurmctld", "-D", "-c"], *(["slurmd", "-D", "-N", node] for node in NODES)]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin") or command[0]
            log = (folder / f"{command[0]}-{command[-1]}.out".replace("=", "")).open("wb")
            processes.append(
                subprocess.Popen([program, *command[1:]], env=environment, stdout=log, stderr=log)
            )
            log.close()
            time.sleep(1.0)
        _wait_until_idle(environment, folder)
        yield environment
    finally:
        subprocess.run(["scancel", "--user", user], env=environment, check=False, capture_output=True)
        time.sleep(1.0)
        for process in reversed(processes):
            process.terminate()
        for process in reversed(processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_idle(environment: dict[str, str], folder: Path, limit_s: float = 60.0) -> None:
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        answer = subprocess.run(
            ["sinfo", "-h", "-o", "%D %t"], env=environment, capture_output=True, text=True, check=False
        )
        if answer.stdout.strip() == f"{len(NODES)} idle":
            return
        time.sleep(1.0)
    logs = "\n".join(path.read_text()[-1500:] for path in sorted(folder.glob("*.log")))
    raise RuntimeError(f"SLURM did not start: {answer.stdout} {answer.stderr}\n{logs}")
