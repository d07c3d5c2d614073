"""Files that hold something secret: read only if nobody else can read or change them."""

from __future__ import annotations

import os
import stat

from streamer.errors import InvalidRequest, NotFound, NotPermitted

_LARGEST = 1 << 20


def contents(path: str, what: str) -> str:
    """The file's text; `what` names it in errors (`tokens`). A link is followed: volumes of secrets consist of links.

    NotFound; NotPermitted for a file that every user may read or write, or that another user than root owns;
    InvalidRequest for what is no regular file, not UTF-8, or larger than 1 MiB.
    """
    try:
        # O_NONBLOCK: a FIFO in its place must not hold up the start.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path} for {what}") from None
    except OSError as error:
        raise NotPermitted(f"cannot read {what} from {path}: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequest(f"cannot read {what} from {path}: it is not a regular file")
        mode = stat.S_IMODE(status.st_mode)
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise NotPermitted(
                f"refusing to use {path} for {what}: every user of this machine may "
                f"{'read' if mode & stat.S_IROTH else 'change'} it (mode {mode:04o}); `chmod o= {path}` ends that"
            )
        if status.st_uid not in (0, os.geteuid()):
            raise NotPermitted(
                f"refusing to use {path} for {what}: it belongs to user {status.st_uid}, who could change it"
            )
        try:
            data = file.read(_LARGEST + 1)
            if len(data) > _LARGEST:
                raise InvalidRequest(f"cannot read {what} from {path}: it is larger than {_LARGEST} bytes")
            return data.decode()
        except OSError as error:
            raise NotPermitted(f"cannot read {what} from {path}: {error.strerror}") from error
        except UnicodeDecodeError:
            raise InvalidRequest(f"cannot read {what} from {path}: it is not UTF-8") from None
