"""OpenStack Swift with its S3 interface on one machine, all of its servers in one process; a program of its own.

    python -P tests/servers/swift_s3.py FOLDER PORT ACCOUNT_PORT CONTAINER_PORT OBJECT_PORT ACCESS_KEY SECRET

It starts like Swift's own "all in one": one device, one replica, users in the configuration of ``tempauth``. An access
key is ``ACCOUNT:USER`` there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

_PROXY = """
[DEFAULT]
swift_dir = {folder}
[pipeline:main]
pipeline = {first} s3api tempauth {last} proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret} .admin
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
dns_compliant_bucket_names = false
auth_pipeline_check = false
"""
_FIRST = "catch_errors gatekeeper healthcheck listing_formats"
_LAST = "bulk copy slo dlo versioned_writes"


def serve(folder: Path, ports: Sequence[int], access_key: str, secret: str) -> None:
    """Serve until the process is killed."""
    import eventlet

    eventlet.monkey_patch()
    from eventlet import wsgi
    from swift.account.server import AccountController
    from swift.common.ring import RingBuilder
    from swift.common.utils import get_logger, set_swift_dir
    from swift.common.wsgi import SwiftHttpProtocol, loadapp
    from swift.container.server import ContainerController
    from swift.obj.server import ObjectController

    (folder / "devices" / "one").mkdir(parents=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = lab\n")
    for name, port in zip(("account", "container", "object"), ports[1:], strict=True):
        builder = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
        place = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
        builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "one", "meta": "", **place})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{name}.ring.gz"))
    set_swift_dir(str(folder))
    user = access_key.replace(":", "_")
    filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in f"{_FIRST} {_LAST}".split())
    configuration = folder / "proxy-server.conf"
    configuration.write_text(_PROXY.format(folder=folder, user=user, secret=secret, first=_FIRST, last=_LAST) + filters)
    of_servers = {"devices": str(folder / "devices"), "swift_dir": str(folder), "mount_check": "false"}
    apps = [
        loadapp(str(configuration)),
        *(make(of_servers) for make in (AccountController, ContainerController, ObjectController)),
    ]
    logger = get_logger({}, "swift")
    threads = [
        eventlet.spawn(
            wsgi.server,
            eventlet.listen(("127.0.0.1", port)),
            app,
            logger,
            log_output=False,
            protocol=SwiftHttpProtocol,
        )
        for port, app in zip(ports, apps, strict=True)
    ]
    for thread in threads:
        thread.wait()


if __name__ == "__main__":
    *numbers, key_id, key = sys.argv[2:]
    serve(Path(sys.argv[1]), [int(number) for number in numbers], key_id, key)
