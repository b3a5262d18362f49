"""The whole installation on this machine: ``make stack`` and ``make stack-down``.

    PostgreSQL ─┐                                ┌─ tezzeret (compiles)
    versitygw ──┼─ urza (library over REST) ─────┼─ urabrask (benchmarks)
    Pulsar ─────┴─ dispatcher (what goes where) ─┘

Every program runs under supervisord, which starts again what dies. Data, keys, settings and logs stay in one folder
(``.stack``, or ``STACK_DIR``), so that ``up`` after ``down`` goes on where it was. Everything listens on loopback only.
PostgreSQL does not wait for the disk: what was acknowledged outlives every process, but not the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import httpx
import yaml
from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy.engine import make_url
from supervisor.xmlrpc import SupervisorTransport

import parts
import real_postgres
import real_pulsar
import real_s3
from esper.oona.keyfiles import TRUSTED, make_key
from esper.urza.client import RemoteLibrary, token_from_file
from esper.urza.issuing import JWKS, KEY, sign_token
from esper.urza.issuing import make_key as make_issuer
from esper.weatherlight.keys import PUBLIC, make_signing_key

ROOT = Path(__file__).resolve().parents[2]
ESPER = Path(sys.executable).with_name("esper")
SERVERS = ("postgres", "s3", "pulsar")
PROCESSES = ("urza", "dispatcher", "tezzeret", "urabrask")
PROGRAMS = (*SERVERS, *PROCESSES)
BUCKET, ISSUER = "esper", "esper-stack"
TOKEN_SECONDS = 30 * 86_400.0
"""Tokens are made anew at every start."""
ROLES = {"dispatcher": "admin", "tezzeret": "worker", "urabrask": "worker", "trainer": "trainer", "person": "admin"}
"""Who has a token for the library, and in which role."""
SIGNS = {
    "dispatcher": ("urza",), "tezzeret": ("tezzeret",), "urabrask": ("urabrask",),
    "trainer": ("tolaria", "tamiyo", "kasmina", "weatherlight"), "person": ("person",),
}  # fmt: skip
"""Who has a key for messages, and whom it speaks for."""


class Stack:
    """The installation in one folder."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()
        self.conf, self.log = self.home / "conf", self.home / "log"
        name = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        # In a folder of its own, because a socket's path must be short.
        self.socket = Path(tempfile.gettempdir()) / f"esper-stack-{os.getuid()}" / f"{name}.sock"

    # -- what people do with it --------------------------------------------------------------------------------------

    def up(self, tell: Callable[[str], object] = print) -> float:
        """Start what is not running and wait until all of it is ready; returns how long that took, in seconds."""
        began = time.monotonic()
        self._make()
        if not self.running():
            self._supervise()
        with ThreadPoolExecutor() as pool:
            for name, seconds in pool.map(self._start, SERVERS):
                tell(f"  {name:<11}ready after {seconds:.1f} s")
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(self._fill), pool.submit(self._provision)]:
                done.result()
        tell(f"  {'urza':<11}ready after {self._start('urza')[1]:.1f} s")
        with ThreadPoolExecutor() as pool:
            for name, seconds in pool.map(self._start, PROCESSES[1:]):
                tell(f"  {name:<11}ready after {seconds:.1f} s")
        return time.monotonic() - began

    def down(self, patience: float = 60.0) -> bool:
        """End everything in good order, servers last; returns whether anything ran."""
        if not self.running():
            return False
        supervisor = self._supervisor()
        pid = int(supervisor.supervisor.getPID())
        since = parts.started(pid)
        supervisor.supervisor.shutdown()
        deadline = time.monotonic() + patience
        while parts.started(pid) == since:
            if time.monotonic() > deadline:
                raise SystemExit(f"stack: supervisord ({pid}) did not end within {patience:g} s; see {self.log}")
            time.sleep(0.05)
        return True

    def running(self) -> bool:
        """Whether its supervisor answers."""
        try:
            self._supervisor().supervisor.getState()
        except (OSError, Fault):
            return False
        return True

    def status(self) -> list[dict[str, Any]]:
        """Name, state, process id and words of each program."""
        found = {entry["name"]: entry for entry in self._supervisor().supervisor.getAllProcessInfo()}
        return [
            {"name": name, "state": found[name]["statename"], "pid": found[name]["pid"],
             "about": found[name]["description"]}
            for name in PROGRAMS if name in found
        ]  # fmt: skip

    def pid(self, name: str) -> int:
        """Process id of a program; 0 while it does not run."""
        return int(self._supervisor().supervisor.getProcessInfo(name)["pid"])

    def ready(self, name: str) -> bool:
        """Whether a program does its work."""
        facts = self.facts()
        if name == "postgres":
            return real_postgres.accepts(make_url(facts["postgres"]["url"]))
        if name == "s3":
            return parts.answers(facts["s3"]["port"])
        if name == "pulsar":
            return self.broker().healthy()
        try:
            return httpx.get(f"http://127.0.0.1:{facts['ports'][name]}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def facts(self) -> dict[str, Any]:
        """Ports, addresses and credentials, as they were chosen when the stack was made."""
        known: dict[str, Any] = json.loads((self.home / "facts.json").read_text())
        return known

    def broker(self) -> real_pulsar.Broker:
        """The broker."""
        return real_pulsar.Broker(self.home / "pulsar", real_pulsar.Address(**self.facts()["pulsar"]))

    def bucket(self) -> real_s3.Bucket:
        """Where the library's files are."""
        s3 = self.facts()["s3"]
        return real_s3.Bucket(s3["endpoint"], BUCKET, s3["access_key"], s3["secret_key"])

    def library(self) -> RemoteLibrary:
        """A client of the library that may do everything; to be closed."""
        address = f"http://127.0.0.1:{self.facts()['ports']['urza']}"
        return RemoteLibrary(address, token_from_file(self.home / "tokens" / "person"))

    @property
    def public_keys(self) -> Path:
        """Whose signatures on kernels are taken."""
        return self.home / "signing" / PUBLIC

    def settings(self, name: str) -> Path:
        """The settings file of a process."""
        return self.conf / f"{name}.yaml"

    # -- making it ---------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        """Make what is not there: keys, a database cluster, a bucket's server, a broker, settings."""
        for folder in (self.home, self.conf, self.log, self.home / "tokens"):
            folder.mkdir(parents=True, exist_ok=True)
        self.conf.chmod(0o700)
        (self.home / "tokens").chmod(0o700)
        if not (self.home / "facts.json").exists():
            for name in SERVERS:  # of a start that was killed half-way
                shutil.rmtree(self.home / name, ignore_errors=True)
            self._choose()
        keys, signing = self.home / "keys", self.home / "signing"
        if not (keys / KEY).exists():
            make_issuer(keys)
        for name, roles in SIGNS.items():
            if not (keys / f"{name}.pem").exists():
                (keys / TRUSTED / f"{name}.json").unlink(missing_ok=True)
                make_key(keys, name, roles)
        for purpose in ("built", "validated"):
            if not (signing / f"{purpose}.pem").exists():
                make_signing_key(signing, purpose)  # type: ignore[arg-type]
        facts = self.facts()
        for name, role in ROLES.items():
            token = sign_token(keys, name, [role], issuer=ISSUER, seconds=TOKEN_SECONDS)
            _secret(self.home / "tokens" / name, token)
        _secret(self.home / "tokens" / "pulsar", facts["pulsar"]["token"])
        for name, values in self._settings(facts).items():
            _secret(self.settings(name), yaml.safe_dump(values, sort_keys=False))
        _secret(self.conf / "supervisord.conf", self._supervisord(facts))

    def _choose(self) -> None:
        ports: set[int] = set()
        while len(ports) < 2 + len(PROCESSES):
            ports.add(parts.free_port())
        postgres, s3, *others = ports
        for name in SERVERS:
            (self.home / name).mkdir()
        (self.home / "s3" / "data").mkdir()
        broker = real_pulsar.Broker(self.home / "pulsar")
        if real_postgres.run_as() and not _open_to_all(self.home):
            raise SystemExit(
                f"stack: {self.home} is in a folder that only its owner may enter, and PostgreSQL refuses to run as "
                "root; set STACK_DIR to another place"
            )
        facts = {
            "postgres": {"port": postgres, "url": real_postgres.make(self.home / "postgres", postgres)},
            "s3": {"port": s3, "endpoint": f"http://127.0.0.1:{s3}", "access_key": "esper",
                   "secret_key": os.urandom(16).hex()},
            "pulsar": asdict(broker.address),
            "ports": dict(zip(PROCESSES, others, strict=True)),
        }  # fmt: skip
        _secret(self.home / "facts.json", json.dumps(facts, indent=1))

    def _settings(self, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What the settings files say, by process."""
        keys = self.home / "keys"
        database = make_url(facts["postgres"]["url"]).set(drivername="postgresql", database="esper")
        urza = {
            "port": facts["ports"]["urza"], "database_url": database.render_as_string(hide_password=False),
            "blobs": f"s3://{BUCKET}/library", "s3_endpoint": facts["s3"]["endpoint"],
            "s3_access_key": facts["s3"]["access_key"], "s3_secret_key": facts["s3"]["secret_key"],
            "issuer": ISSUER, "jwks_file": str(keys / JWKS), "log_level": "warning",
        }  # fmt: skip
        pulsar = {
            "service_url": facts["pulsar"]["service_url"], "admin_url": facts["pulsar"]["admin_url"],
            "token_file": str(self.home / "tokens" / "pulsar"),
        }  # fmt: skip
        common = {name: self._process(name, facts, pulsar) for name in ROLES if name != "person"}
        for name, purpose in (("tezzeret", "built"), ("urabrask", "validated")):
            common[name]["signing_key_file"] = str(self.home / "signing" / f"{purpose}.pem")
            common[name]["turns_dir"] = str(self.home / "work" / "turns")
            common[name]["workdir"] = str(self.home / "work" / name)
        common["trainer"] |= {"public_keys_file": str(self.public_keys), "cache_dir": str(self.home / "work" / "cache")}
        ctl = {name: common["trainer"][name] for name in ("pulsar", "bus_trust_dir")}
        ctl["bus_key_file"] = str(keys / "person.pem")
        common["urabrask"]["public_keys_file"] = str(self.home / "signing" / PUBLIC)
        return {"urza": urza, "pulsar": pulsar, "ctl": ctl, **common}

    def _process(self, name: str, facts: Mapping[str, Any], pulsar: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "pulsar": {key: value for key, value in pulsar.items() if key != "admin_url"},
            "library": {
                "url": f"http://127.0.0.1:{facts['ports']['urza']}", "token_file": str(self.home / "tokens" / name),
            },
            "bus_key_file": str(self.home / "keys" / f"{name}.pem"),
            "bus_trust_dir": str(self.home / "keys" / TRUSTED),
            "http_port": facts["ports"].get(name, 0),
        }  # fmt: skip

    def _supervisord(self, facts: Mapping[str, Any]) -> str:
        esper = [str(ESPER)]
        commands: dict[str, tuple[list[str], dict[str, str]]] = {
            "postgres": (
                real_postgres.command(self.home / "postgres", facts["postgres"]["port"]),
                {"stopsignal": "INT", "user": real_postgres.run_as()},
            ),
            "s3": (
                real_s3.command(self.home / "s3", facts["s3"]["port"]),
                {"environment": _environment(
                    real_s3.environment(facts["s3"]["access_key"], facts["s3"]["secret_key"])
                )},
            ),
            "pulsar": (self.broker().command(), {"stopsignal": "KILL"}),
            "urza": ([*esper, "urza", "serve", "--config", str(self.settings("urza"))], {}),
            "dispatcher": ([*esper, "urza", "dispatch", "--config", str(self.settings("dispatcher"))], {}),
            "tezzeret": ([*esper, "tezzeret", "work", "--config", str(self.settings("tezzeret"))], {}),
            "urabrask": ([*esper, "urabrask", "work", "--config", str(self.settings("urabrask"))], {}),
        }  # fmt: skip
        sections: dict[str, dict[str, Any]] = {
            "supervisord": {
                "logfile": self.log / "supervisord.log", "pidfile": self.home / "supervisord.pid", "umask": "077",
                "directory": self.home, **({"user": "root"} if os.geteuid() == 0 else {}),
            },
            "unix_http_server": {"file": self.socket, "chmod": "0600"},
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
        }  # fmt: skip
        for number, (name, (command, more)) in enumerate(commands.items()):
            sections[f"program:{name}"] = {
                # the kernel ends it when supervisord is killed: nothing of a stack is left without its supervisor
                "command": " ".join(["setpriv", "--pdeathsig", "KILL", "--", *map(_quoted, command)]),
                "autostart": "false", "autorestart": "true", "startsecs": 1, "startretries": 1000,
                "stopwaitsecs": 30, "priority": number, "stdout_logfile": self.log / f"{name}.log",
                "redirect_stderr": "true", "stdout_logfile_maxbytes": "10MB", "stdout_logfile_backups": 1,
                **{key: value for key, value in more.items() if value},
            }  # fmt: skip
        return "".join(
            f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()) + "\n"
            for section, values in sections.items()
        )

    # -- starting it -------------------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.conf / "supervisord.conf")],
            check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        _await(self.running, 10, "supervisord", self.log / "supervisord.log")

    def _start(self, name: str) -> tuple[str, float]:
        began = time.monotonic()
        supervisor = self._supervisor().supervisor
        if supervisor.getProcessInfo(name)["statename"] not in ("STARTING", "RUNNING", "BACKOFF"):
            supervisor.startProcess(name, False)
        _await(lambda: self.ready(name), 120, name, self.log / f"{name}.log")
        return name, time.monotonic() - began

    def _fill(self) -> None:
        """The bucket, the database and its schema."""
        facts = self.facts()
        store = real_s3.client(self.bucket())
        try:
            store.head_bucket(Bucket=BUCKET)
        except (BotoCoreError, ClientError):
            store.create_bucket(Bucket=BUCKET)
        finally:
            store.close()
        real_postgres.ensure(make_url(facts["postgres"]["url"]), "esper")
        _esper("urza", "migrate", "--config", str(self.settings("urza")))

    def _provision(self) -> None:
        _esper("oona", "provision", "--config", str(self.settings("pulsar")))

    def _supervisor(self) -> ServerProxy:
        transport = SupervisorTransport(None, None, serverurl=f"unix://{self.socket}")
        return ServerProxy("http://127.0.0.1", transport=transport)


def _esper(*words: str) -> None:
    done = subprocess.run([str(ESPER), *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"stack: esper {' '.join(words[:2])}: {(done.stderr or done.stdout).strip()}")


def _await(ready: Callable[[], bool], seconds: float, name: str, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            words = log.read_text(errors="replace")[-1500:] if log.exists() else ""
            raise SystemExit(f"stack: {name} is not ready after {seconds:g} s; {log} ends with:\n{words}")
        time.sleep(0.1)


def _environment(values: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in values.items())


def _quoted(word: str) -> str:
    """For supervisord, which splits words as a shell does and takes ``%`` for its own."""
    return "'" + word.replace("%", "%%") + "'" if any(mark in word for mark in " ;%#*'\"") else word


def _secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read; whole or not at all."""
    aside = path.with_name(path.name + ".new")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    os.replace(aside, path)


def _open_to_all(folder: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))


def main(words: Iterable[str] | None = None) -> int:
    """``python tests/infra/stack.py up|down|status|clean``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("up", "down", "status", "clean"))
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("STACK_DIR", ROOT / ".stack")))
    given = parser.parse_args(None if words is None else list(words))
    stack = Stack(given.home)
    if given.what == "up":
        print(f"stack in {stack.home}")
        try:
            seconds = stack.up()
        except parts.PartMissing as missing:
            raise SystemExit(f"stack: {missing}; tests/infra/setup.sh installs it") from missing
        print(f"ready after {seconds:.0f} s; logs in {stack.log}\n\n  esper run --stack docs/examples/mnist1d.yaml")
    elif given.what == "status":
        if not stack.running():
            print("not running")
            return 3
        for entry in stack.status():
            print(f"{entry['name']:<11}{entry['state']:<10}{entry['about']}")
    else:
        print("stopped" if stack.down() else "not running")
        if given.what == "clean":
            shutil.rmtree(stack.home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
