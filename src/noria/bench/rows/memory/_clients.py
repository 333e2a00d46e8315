"""A process that holds connections open, so that only the server's side of them is in the measured process.

    python _clients.py PORT plain|tls

Each line of standard input is a number: so many more connections are made and the number is said back. The end of
standard input ends it.
"""

from __future__ import annotations

import resource
import socket
import ssl
import sys


def main() -> None:
    port, kind = int(sys.argv[1]), sys.argv[2]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate is one that the server made for itself
    kept = []
    for line in sys.stdin:
        for _ in range(int(line)):
            connection = socket.create_connection(("127.0.0.1", port), 30)
            kept.append(context.wrap_socket(connection) if kind == "tls" else connection)
        print(line.strip(), flush=True)


if __name__ == "__main__":
    main()
