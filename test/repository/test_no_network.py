import socket

import pytest


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_foreign_address_is_refused(kind):
    with socket.socket(socket.AF_INET, kind) as sock:
        with pytest.raises(RuntimeError, match="without a network"):
            sock.connect(("192.0.2.1", 80))
        with pytest.raises(RuntimeError, match="without a network"):
            sock.connect_ex(("example.org", 80))


def test_the_own_machine_may_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            with socket.create_connection((host, server.getsockname()[1]), timeout=5) as client:
                accepted, address = server.accept()
                accepted.close()
                assert address == client.getsockname()
