"""The readiness probe: prints the text of /readyz, so that the kubelet copies it into the pod's Events.

For an HTTP probe the kubelet would report the status code alone. The probe is started every few seconds, so it imports
as little as possible.
"""

import os
import socket
import sys

from neuronmodel_api import names

SECONDS = 4.0


def ask(port: int) -> tuple[bool, str]:
    """Returns whether the operator is ready, and the text of /readyz."""
    try:
        with socket.create_connection(("localhost", port), timeout=SECONDS) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    except OSError as error:
        return False, f"The operator does not answer on port {port}: {error}.\n"
    return head.split(b" ")[1:2] == [b"200"], body.decode()


def main() -> None:
    is_ready, says = ask(int(os.environ.get(names.ENV_HEALTH_PORT, names.HEALTH_PORT)))
    sys.stdout.write(says)
    sys.exit(0 if is_ready else 1)


if __name__ == "__main__":
    main()
