"""Three ways to make a read-only overlay that is attached nowhere, for kernels from 5.2 on.

Each takes descriptors of at least two layers, topmost first, and gives an O_PATH descriptor of the mount. Nothing of
it is ever visible in a mount table, and it is gone with its last descriptor: SIGKILL leaves nothing behind. Layers go
in as descriptors: paths would have to be escaped (a layer named `x,upperdir=…` is an attack) and are cut at 255 bytes.

Every OSError is the kernel's. Which way works is found by trying (`features`), never by comparing versions.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import threading
from collections.abc import Iterator, Sequence

from streamer.mounts import kernel

ATTRIBUTES = kernel.RDONLY | kernel.NOSUID | kernel.NODEV | kernel.NOEXEC

OPTIONS_MAX = 4095
"""Bytes of mount(2)'s options that the kernel reads; it mounts a cut list of layers without a word."""


class Way(enum.StrEnum):
    """How layers reach the kernel, best first."""

    DESCRIPTORS = "descriptors"  # 6.13: fsconfig takes each layer's descriptor
    STRINGS = "strings"  # 6.8: fsconfig takes each layer as /proc/self/fd/N
    THREAD = "thread"  # 5.2: mount(2) in the mount namespace of a thread that ends at once, cloned by open_tree

    def mount(self, layers: Sequence[int], *, userxattr: bool) -> int:
        if self is Way.THREAD:
            return _mount_in_thread(layers, userxattr=userxattr)
        with kernel.Context(b"overlay") as context:
            for layer in layers:
                self.add(context, b"lowerdir+", layer)
            for key, value in _options(userxattr):
                if value is None:
                    context.flag(key)
                else:
                    context.string(key, value)
            return context.mounted(ATTRIBUTES)

    def add(self, context: kernel.Context, key: bytes, directory: int) -> None:
        if self is Way.DESCRIPTORS:
            context.descriptor(key, directory)
        else:
            context.string(key, b"/proc/self/fd/%d" % directory)


def _options(userxattr: bool) -> list[tuple[bytes, bytes | None]]:
    # Without metacopy=on a file whose data lies in a lower layer cannot be read (EPERM), without redirect_dir=follow a
    # renamed directory looks empty; the kernel's module parameters must not decide it. Neither is allowed with
    # userxattr: an ordinary user could write such marks to read what is not theirs.
    return [(b"userxattr", None)] if userxattr else [(b"metacopy", b"on"), (b"redirect_dir", b"follow")]


def _mount_in_thread(layers: Sequence[int], *, userxattr: bool) -> int:
    mounted: list[int] = []
    failed: list[OSError] = []

    def run() -> None:
        try:
            mounted.append(_mount_privately(layers, userxattr=userxattr))
        except OSError as error:
            failed.append(error)

    # The namespace is the thread's and dies with it; a pooled thread would keep it and run other people's work there.
    thread = threading.Thread(target=run, name="overlay mount", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return mounted[0]


def _mount_privately(layers: Sequence[int], *, userxattr: bool) -> int:
    kernel.leave_mount_namespace()
    with contextlib.ExitStack() as stack:
        # The kernel takes only layers that were opened in the namespace that mounts them.
        names = b":".join(b"%d" % stack.enter_context(_opened_again(layer)) for layer in layers)
        given = [key if value is None else key + b"=" + value for key, value in _options(userxattr)]
        options = b",".join([b"lowerdir=" + names, *given])
        if len(options) > OPTIONS_MAX:
            raise OSError(errno.E2BIG, f"the names of {len(layers)} layers are longer than mount(2) reads")
        # From this directory each layer is named by its bare number: 500 layers fit in a page and nothing needs
        # escaping. The working directory is this thread's own since it left the namespace.
        os.chdir("/proc/self/fd")
        # Any directory can be the mount point in a namespace nobody else sees; /proc is certainly there.
        kernel.mount_overlay(b"overlay", b"/proc", ATTRIBUTES, options)
        return kernel.clone_mount(b"/proc")


@contextlib.contextmanager
def _opened_again(layer: int) -> Iterator[int]:
    """The same directory, opened in this thread's namespace; ESTALE if its path leads elsewhere by now."""
    again = os.open(os.readlink(b"/proc/self/fd/%d" % layer), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(again), os.fstat(layer)):
            raise OSError(errno.ESTALE, "a layer's directory was replaced")
        yield again
    finally:
        os.close(again)
