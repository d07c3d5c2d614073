"""Dockerfiles without RUN for the classic builder and for streamer, the context and the bases that they build on, and
what came out as plain data to compare."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import images
from support.trees import Dir, File, Link, Symlink

BASE = (
    images.directory("etc"),
    images.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:1001:1002::/:/bin/sh\n"),
    images.file("etc/group", b"root:x:0:\nstaff:x:50:\nweb:x:1002:\n"),
    images.directory("srv", mode=0o2750, uid=7, gid=8),
    images.file("srv/old", b"old", mode=0o600, uid=7, gid=8),
    images.directory("srv/sub", mode=0o700, uid=9),
    images.symlink("link", "srv/sub"),
    images.symlink("absolute", "/srv"),
)

BASES: Mapping[str, Sequence[str]] = {
    "base:plain": (),
    "base:set": (
        "ENV A=1 PATH=/own",
        "WORKDIR /missing/deep",
        'ENTRYPOINT ["/e"]',
        'CMD ["c"]',
        "LABEL old=label",
        "EXPOSE 1",
        "HEALTHCHECK --interval=7s CMD base",
        "USER web",
    ),
    "base:triggers": (
        "ENV A=trigger",
        "ONBUILD COPY one /from-trigger",
        "ONBUILD LABEL trigger=$A$B",
        "ONBUILD ENV B=2",
    ),
    "base:volume": ("VOLUME /srv/data",),
}
"""By name, what `docker import --change` says of each; all have the files of `BASE`."""


def _archive(*members: images.Member) -> bytes:
    return images.layer(*members)


INNER = _archive(
    images.directory("inner", mode=0o711),
    images.file("inner/file", b"inside", mode=0o640, uid=3, gid=4),
    images.symlink("inner/link", "file"),
    images.file("top", b"top"),
)

CONTEXT = (
    File("one", "first\n", mode=0o644),
    File("two.txt", "second\n", mode=0o755),
    File("three.txt", "third\n", mode=0o600),
    File("sp ace", "blank", mode=0o644),
    File("[odd]", "brackets", mode=0o644),
    File("empty", "", mode=0o644),
    Symlink("to-one", "one"),
    Symlink("to-dir", "dir"),
    Symlink("dangling", "nowhere"),
    Dir(
        "dir",
        File("a", "a", mode=0o644),
        File("b.log", "log", mode=0o644),
        Dir("sub", File("deep", "deep", mode=0o4755), Symlink("up", "../a"), mode=0o750),
        Dir("hollow", mode=0o700),
        mode=0o755,
    ),
    Link("dir/hard", "dir/a"),
    File("plain.tar", INNER, mode=0o644),
    File("packed.tar.gz", gzip.compress(INNER, mtime=0), mode=0o644),
    File("no.tar.gz", b"not an archive at all", mode=0o644),
    Dir("ignored", File("x", "x")),
    File(".dockerignore", "ignored\n**/*.log\n!dir/keep.log\n", mode=0o644),
)


@dataclass(frozen=True, init=False)
class Case:
    """The lines of a Dockerfile, and what is given beside it."""

    text: str
    arguments: Mapping[str, str]
    labels: Mapping[str, str]
    target: str

    def __init__(
        self,
        *lines: str,
        arguments: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        target: str = "",
    ) -> None:
        object.__setattr__(self, "text", "\n".join(lines) + "\n")
        object.__setattr__(self, "arguments", arguments or {})
        object.__setattr__(self, "labels", labels or {})
        object.__setattr__(self, "target", target)


CASES: dict[str, Case] = {
    "variables": Case(
        "FROM base:plain",
        'ENV a=b c="d e" f=g\\ h',
        'ENV old value with "quotes" in',
        "ARG one two=2",
        "ARG GIVEN",
        'ENV p=$HTTP_PROXY g=${GIVEN:-no} t=$two u=${unset:-dflt} v=${a:+alt} w="${old}"',
        "ENV a=2 b=$a",
        "ENV A$a=${unset}x\\$a'$a' B=\"\\$a \\\\ \\n\"",
        arguments={"GIVEN": "given", "HTTP_PROXY": "proxy"},
    ),
    "labels": Case(
        "FROM base:set",
        "LABEL x=y \"q r\"='s t' old=new",
        'LABEL m="line \\',
        "two\" n='x \\",
        "y'",
        "LABEL k  v  w",
        "LABEL d=",
        labels={"given": "$A", "a": "b c"},
    ),
    "ports": Case(
        "FROM base:set",
        'ENV P="80 443"',
        "EXPOSE $P 90/udp 8000-8002 53 127.0.0.1:81:82",
        "EXPOSE 1/sctp",
    ),
    "volumes": Case(
        "FROM base:plain",
        "VOLUME /v1 $HOME/v2",
        'VOLUME ["/v 3", "/srv"]',
    ),
    "users": Case(
        "FROM base:plain",
        "USER web:staff",
        "COPY one /one",
        "USER 5",
        "WORKDIR /as/five",
    ),
    "directories": Case(
        "FROM base:plain",
        "WORKDIR rel/x",
        "WORKDIR /abs/../y/",
        "WORKDIR z",
        "WORKDIR /srv/sub/new",
        "WORKDIR /link/through",
        "WORKDIR /absolute",
        "COPY one .",
        "COPY one down/",
        "WORKDIR /",
        "WORKDIR /etc",
    ),
    "commands": Case(
        "FROM base:set",
        'CMD echo "hi"',
        'ENTRYPOINT ["/bin/x", "--y"]',
        'SHELL ["/bin/bash", "-c"]',
        "CMD []",
        "ENTRYPOINT a b",
    ),
    "entrypoint": Case(
        "FROM base:set",
        'ENTRYPOINT ["/n"]',
    ),
    "own command": Case(
        "FROM base:set",
        'CMD ["/bin/echo", "$HOME", "tab\\there", "\\u00e9\\u0001\\ud83d\\ude00<&>"]',
        "ENTRYPOINT []",
    ),
    "empty command": Case(
        "FROM base:set",
        "CMD",
        "ENTRYPOINT",
    ),
    "health": Case(
        "FROM base:set",
        'HEALTHCHECK --timeout=1500ms --retries=3 CMD curl "x" || exit 1',
        'HEALTHCHECK --start-period=2h CMD ["a", "b\\n"]',
        "HEALTHCHECK NONE",
    ),
    "stop": Case(
        "FROM base:plain",
        "STOPSIGNAL SIGRTMIN+3",
        "STOPSIGNAL 9",
        "STOPSIGNAL ${X:-SIGKILL}",
    ),
    "maintainer": Case(
        "FROM base:plain",
        "LABEL a=b",
        "MAINTAINER Some One <some@one>",
        "COPY one /",
        "LABEL c=d",
    ),
    "recorded triggers": Case(
        "FROM base:plain",
        "ONBUILD RUN  make ",
        "onbuild COPY a b",
        "ONBUILD ENV x=$y",
    ),
    "triggers": Case(
        "FROM base:triggers",
        "LABEL after=$B",
    ),
    "triggers once": Case(
        "FROM base:triggers AS first",
        "FROM first",
        "LABEL a=b",
    ),
    "working directory of the base": Case(
        "FROM base:set",
        "LABEL a=b",
        "COPY one .",
    ),
    "working directory first copied to": Case(
        "FROM base:set",
        "COPY one two.txt ./",
        "LABEL a=b",
    ),
    "scratch": Case(
        "FROM scratch",
        "ENV a=b",
        "COPY one /",
        "WORKDIR /w",
        "COPY dir .",
    ),
    "scratch with files first": Case(
        "FROM scratch",
        "COPY dir/ /",
        'CMD ["/a"]',
    ),
    "stages": Case(
        "ARG tag=plain",
        "FROM base:$tag AS One",
        "COPY --chown=web two.txt /srv/new",
        "FROM scratch AS two",
        "COPY one /x",
        "FROM base:plain",
        "COPY --from=one /srv /copied",
        "COPY --from=0 /etc/passwd /p",
        "COPY --from=two x /y",
        "COPY --from=base:set /absolute/old /old",
    ),
    "stage on a stage": Case(
        "FROM base:set AS a",
        "ENV X=1",
        "COPY one /one",
        "FROM a AS b",
        "ARG Y=2",
        "LABEL x=$X$Y$A",
        "COPY dir /d",
    ),
    "target": Case(
        "FROM base:plain AS a",
        "LABEL a=b",
        "FROM base:plain AS b",
        "LABEL c=d",
        "FROM b",
        "LABEL e=f",
        labels={"t": "u"},
        target="B",
    ),
    "files": Case(
        "FROM base:plain",
        "COPY one two.txt /files/",
        "COPY *.txt /wild/",
        "COPY t*o.txt /srv/old",
        'COPY ["sp ace", "/b lank"]',
        "COPY [[]odd] /odd",
        "COPY empty to-one /srv/",
        "COPY one /link/",
        "COPY one /absolute/linked",
    ),
    "folders": Case(
        "FROM base:plain",
        "COPY dir /new",
        "COPY dir /srv",
        "COPY dir/ /link/",
        "COPY to-dir /followed",
        "COPY dir/sub one /both/",
        "COPY dir/h* /h/",
    ),
    "everything": Case(
        "FROM base:plain",
        "COPY . /all",
        "COPY . .",
    ),
    "owners": Case(
        "FROM base:plain",
        "COPY --chown=web one /a",
        "COPY --chown=web:staff dir /b",
        "COPY --chown=12:34 dir /srv",
        "ARG who=7",
        "COPY --chown=$who one two.txt /new/parents/",
        "ADD --chown=0:staff one /c",
    ),
    "archives": Case(
        "FROM base:plain",
        "ADD plain.tar /plain/",
        "ADD packed.tar.gz /srv",
        "ADD packed.tar.gz /named",
        "COPY plain.tar /as-is/",
        "ADD no.tar.gz /not/",
        "ADD dir /dir",
    ),
    "continuations": Case(
        "# escape=`",
        "",
        "# a comment",
        "FROM base:plain",
        "ENV a=b `",
        "  # inside",
        "",
        "  c=d`",
        'e f="`"g`""',
        "CMD a `",
        "  b",
        "LABEL z=\\e",
    ),
    "spelling": Case(
        "from base:plain",
        "\tcopy\tone\t /x ",
        'label "a b"="c d" e=f',
        "add --chown=1:1 one two.txt /y/",
        "Env x y z",
    ),
    "volume of the base": Case(
        "FROM base:volume",
        "COPY one /srv/data/x",
        "VOLUME /srv/data/more",
        "WORKDIR /srv/data/w",
    ),
    "arguments": Case(
        "ARG V=1",
        "ARG N=base:${W:-plain}",
        "FROM $N",
        "ARG V",
        "ARG N=other",
        "LABEL v=$V n=$N w=$W",
        "ENV V=env",
        "LABEL v=$V",
        "ARG V=late",
        "LABEL u=$V",
        arguments={"W": "set", "unused": "x"},
    ),
}

Entry = tuple[str, int, int, int, bytes, str, Mapping[str, str]]


def flattened(archive: Path) -> tuple[dict[str, Any], dict[str, Entry]]:
    """The configuration of the only image in a saved archive, and the file system that its layers make: by name type,
    mode, owner, group, digest of the content, target and extended attributes."""
    with tarfile.open(archive) as saved:
        (manifest,) = json.loads(_content(saved, "manifest.json"))
        config = json.loads(_content(saved, manifest["Config"]))
        tree: dict[str, Entry] = {}
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(_content(saved, name))) as layer:
                for member in layer:
                    _put(tree, layer, member)
    return config, tree


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None, name
    return member.read()


def _put(tree: dict[str, Entry], layer: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    name = member.name.strip("/")
    assert not Path(name).name.startswith(".wh."), name
    if member.islnk():
        tree[name] = tree[member.linkname.strip("/")]
        return
    if not member.isdir():
        for below in [each for each in tree if each.startswith(f"{name}/")]:
            del tree[below]
    content = layer.extractfile(member) if member.isfile() else None
    data = b"" if content is None else hashlib.sha256(content.read()).digest()
    attributes = {key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr.")}
    kind = "f" if member.isfile() else member.type.decode()
    tree[name] = (kind, member.mode & 0o7777, member.uid, member.gid, data, member.linkname, attributes)
