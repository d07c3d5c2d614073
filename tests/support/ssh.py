"""An ssh server on loopback, and users with a home of their own to come from.

Neither touches what this machine has of ssh: who comes, and the server, each see another /etc/passwd in a mount
namespace of theirs, in which root's home, and the user `git`, are in a directory of the test's.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin") or "sshd"
_SERVED = """
mount --bind "$0" /etc/passwd && mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec "$@"
"""
_COMING = 'mount --bind "$0" /etc/passwd && exec "$@"'


@dataclass
class Home:
    """The home of a root who has a key pair, knows no host, and has no configuration."""

    place: Path
    port: int
    host_key: str
    accepted: Path
    """The server's authorized_keys."""
    passwd: Path = field(init=False)

    def __post_init__(self) -> None:
        self.passwd = self.place.with_suffix(".passwd")
        self.passwd.write_text(_passwd(self.place))
        self.ssh.mkdir(parents=True, mode=0o700)
        self.make_key()

    @property
    def ssh(self) -> Path:
        return self.place / ".ssh"

    def make_key(self, phrase: str = "") -> None:
        """A new key pair, which the server accepts."""
        for old in self.ssh.glob("id_*"):
            old.unlink()
        self.accepted.write_text(_key(self.ssh / "id_ed25519", phrase))

    def know(self, name: str, key: str = "") -> None:
        """The server's key, or another, under the name in known_hosts."""
        (self.ssh / "known_hosts").write_text(f"{name} {key or self.host_key}\n")

    def configure(self, text: str) -> None:
        (self.ssh / "config").write_text(text)

    def prefix(self) -> list[str]:
        """What makes a command come from here."""
        return ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", _COMING, str(self.passwd)]


@contextmanager
def sshd(place: Path, *lines: str) -> Iterator[Home]:
    """A server that lets the user `git` (root by another name) in with a key; `lines` are more of its configuration."""
    place.mkdir()
    configuration, accepted = place / "sshd_config", place / "authorized_keys"
    public = _key(place / "host_key")
    configuration.write_text(
        f"HostKey {place}/host_key\nAuthorizedKeysFile {accepted}\nUsePAM no\nStrictModes no\nPidFile none\n"
        f"PermitRootLogin yes\nAllowUsers git\nPrintMotd no\n" + "".join(f"{line}\n" for line in lines)
    )
    (place / "passwd").write_text(_passwd(place))
    command = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", _SERVED, str(place / "passwd")]
    command += [SSHD, "-i", "-e", "-f", str(configuration)]

    def serve() -> None:
        with (place / "log").open("wb") as log:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    subprocess.run(command, stdin=connection, stdout=connection, stderr=log, timeout=60)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Home(place / "home", listener.getsockname()[1], " ".join(public.split()[:2]), accepted)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def other_key(place: Path) -> str:
    """The public half of a key that nobody has."""
    return " ".join(_key(place).split()[:2])


def _key(place: Path, phrase: str = "") -> str:
    """Makes a key pair; its public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", place], check=True, timeout=60)
    return place.with_name(f"{place.name}.pub").read_text()


def _passwd(home: Path) -> str:
    kept = [line for line in Path("/etc/passwd").read_text().splitlines() if line.split(":")[0] not in ("root", "git")]
    return "\n".join([f"root:x:0:0:root:{home}:/bin/sh", f"git:x:0:0:git:{home}:/bin/sh", *kept, ""])
