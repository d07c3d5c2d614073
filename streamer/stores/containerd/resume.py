"""`python -m streamer.stores.containerd.resume SOCKET NAMESPACE CONTAINER`: resumes what a killed streamer paused."""

from __future__ import annotations

import sys

from streamer.errors import StreamerError
from streamer.stores.containerd.client import Client
from streamer.stores.containerd.freezer import ContainerdFreezer
from streamer.stores.containerd.store import DEADLINE


def main(arguments: list[str]) -> int:
    """The exit status: 0 if the container is not paused any more, 1 if it could not be resumed, 2 for bad arguments."""
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    socket, namespace, container = arguments
    client = Client(socket, namespace, "containerd", DEADLINE)
    try:
        ContainerdFreezer(client, socket, namespace, container).resume()
    except StreamerError as error:
        print(f"container {container} could not be resumed: {error}", file=sys.stderr)
        return 1
    finally:
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
