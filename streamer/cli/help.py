"""What `--help` shows beside the signatures: examples, and no types where a name says more."""

from __future__ import annotations

from collections.abc import Callable
from inspect import cleandoc
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperOption

from streamer.cli.emit import translated

EXAMPLES = {
    "ls": ("streamer ls", "streamer ls containers --json"),
    "changes": ("streamer changes web",),
    "export": (
        "streamer export diff web -o web-diff.tar.zst --compression zstd",
        "streamer export image busybox:latest | ssh host docker load",
        "streamer export rootfs busybox:latest --path etc | tar -t",
        "streamer export image busybox:latest -o s3://backups/busybox.tar",
        "streamer export container web --from http://node:8080 --jobs 4 -o web.tar",
        "streamer export rootfs web --from https://node:8443 --token-file t -o web.tar",
    ),
    "sum": (
        "streamer sum layer.tar.gz",
        "docker save busybox | streamer sum --algorithm sha512 -",
    ),
    "context": (
        "streamer context . -o ../context.tar.zst",
        "streamer context . --compression gzip | docker build -",
        "streamer context - --owner keep < context.tar.xz | buildah build -",
    ),
    "import": (
        "streamer import busybox.tar",
        "docker save busybox | streamer import -",
        "streamer import rootfs.tar.gz --name mine:1",
    ),
    "build": (
        "streamer build . -t site:1",
        "streamer build app -f app/Dockerfile.prod --build-arg VERSION=2 -t app:2",
        "git archive HEAD | streamer build - -t app:head",
    ),
    "copy": (
        "streamer copy busybox:latest index.html /www/ -t site:1",
        "streamer copy base:1 app conf /opt/ --context src --chown web:staff",
        "streamer copy scratch . / -t files:1 --json",
    ),
    "add": (
        "streamer add busybox:latest site.tar.zst /www -t site:2",
        "streamer add base:1 https://example.com/tool /usr/bin/tool --chmod 0755",
    ),
    "create": ("streamer create busybox:latest --name web",),
    "mount": ("streamer mount web", "streamer mount web /mnt"),
    "unmount": ("streamer unmount web",),
    "commit": ('streamer commit web web:changed --message "New pages"',),
    "tag": ("streamer tag busybox:latest mine:1",),
    "rm": ("streamer rm web busybox:latest", "streamer rm --force web"),
    "prune": ("streamer prune",),
    "serve": (
        "streamer serve",
        "streamer serve --listen unix:/run/streamer.sock",
        "streamer serve --listen 0.0.0.0:8443 --tokens t.toml --tls-certificate n.pem",
    ),
    "token": (
        "streamer token new ci --kinds image,list --names 'team/*' >> tokens.toml",
        "streamer token new prometheus --kinds metrics --expires 2027-12-31",
    ),
    "config": ("streamer config", "streamer config --json --config /etc/streamer/streamer.toml"),
    "doctor": ("streamer doctor", "streamer doctor --json"),
}


def examples(name: str) -> str:
    """The examples of a command, as the end of its `--help`."""
    lines = EXAMPLES[name]
    return "\n".join(["Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def description(command: Callable[..., None]) -> str:
    """A command's docstring for `--help`, a line for each paragraph: typer would break them as the source does."""
    return "\n\n".join(" ".join(each.split()) for each in cleandoc(command.__doc__ or "").split("\n\n"))


class Command(TyperCommand):
    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with translated():  # `--help` is written in here
            return super().make_context(*args, **kwargs)

    def get_params(self, ctx: Any) -> list[Any]:
        return untyped(super().get_params(ctx))


def untyped(parameters: list[Any]) -> list[Any]:
    """The parameters without `<bool>` beside a flag and `<str>` or all choices, broken anywhere, beside an argument."""
    for one in parameters:
        if isinstance(one, TyperOption) and one.is_flag:
            one.metavar = ""
        elif isinstance(one, TyperArgument):
            one.display_type_rich = _no_type  # type: ignore[method-assign]
    return parameters


def _no_type(ctx: Any) -> None:
    return None
