"""The few attacks of `make torture` that run with the tests."""

from pathlib import Path

from tests.attacks.server import attack_server


def test_the_server_holds(out: Path, tmp_path: Path) -> None:
    found = attack_server(out, tmp_path, small=True)
    assert not [broken for one in found for broken in one.broken]
    assert sum(one.tried for one in found) > 100
