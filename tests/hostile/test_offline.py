"""Nothing goes out: not from the tests, and not from a whole run where there is no network to go to."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.project import UNLEARN, typed

ALONE = ["unshare", "--map-root-user", "--net"]


REFUSED = "nothing here may use a network"


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_no_test_reaches_another_machine(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as one, pytest.raises(RuntimeError, match=REFUSED):
            one.connect((host, 80))
    with socket.socket(family, socket.SOCK_DGRAM) as one, pytest.raises(RuntimeError, match=REFUSED):
        one.sendto(b"x", (host, 80))


@pytest.mark.parametrize("host", ["192.0.2.1", "canary.invalid"])
def test_no_test_looks_up_a_name(host):
    for ask in (
        socket.gethostbyname,
        lambda name: socket.getaddrinfo(name, 80),
        lambda name: socket.create_connection((name, 80)),
    ):
        with pytest.raises(RuntimeError, match=REFUSED):
            ask(host)


def test_processes_of_one_machine_may_talk(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        path = os.path.relpath(tmp_path / "s")
        server.bind(path)
        server.listen()
        client.connect(path)


def alone():
    return (
        shutil.which("unshare") and subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0
    )


# Says first what networks there are: the one that every machine has with itself, and no other.
RUN = """
import json, sys
from pathlib import Path
lines = Path("/proc/net/dev").read_text().splitlines()[2:]
print(json.dumps([line.split(":")[0].strip() for line in lines]), file=sys.stderr)
from excise.cli.main import run
run()
"""


@pytest.mark.skipif(not alone(), reason="no `unshare` here that may take the network away")
def test_a_whole_run_needs_no_network(project):
    words = [*typed(UNLEARN, recipe="Finetune"), "--quiet", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (Path.cwd(), *filter(None, sys.path))))}
    done = subprocess.run(
        [*ALONE, sys.executable, "-c", RUN, "unlearn", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    first, *others = done.stderr.splitlines()
    assert json.loads(first) == ["lo"] and others == []
    assert json.loads(done.stdout)["recipe"] == "Finetune"
    assert (project / "run" / "model.safetensors").is_file()
