"""``esper-operator-keys``: keys that were just made go into the installation's empty Secrets; see ``cluster.keeping``.

The chart's Job runs it, with a plan as JSON in ``ESPER_KEYS_PLAN``::

    {"bus":     [{"namespace": "esper", "secret": "esper-bus-dispatcher", "name": "dispatcher"}, …],
     "kernels": [{"namespace": "esper", "secret": "esper-signing-built", "name": "built"}, …],
     "logins":  [{"namespace": "esper", "secret": "esper-postgres", "user": "username", "password": "password"}, …],
     "told":    [{"namespace": "esper", "trusted": "esper-trusted", "kernels": "esper-kernels"}, …]}

Files are looked for below the directory in ``ESPER_KEYS_DIR``, as ``esper oona keygen DIR/bus NAME`` and
``esper tezzeret keygen DIR/built`` leave them; of ``logins`` as ``DIR/logins/SECRET/user`` and ``…/password``, and
the plan says under which keys the Secret has them. ``told`` is every namespace whose pods verify something.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper_operator.cluster.keeping import KeysError, Wanted, fill, joined, tell, told
from kubernetes import client, config

KEY, TRUSTED, PUBLIC = "key.pem", "trusted.json", "public.json"
DONE, FAILED = 0, 3


def keep(core: client.CoreV1Api, plan: Mapping[str, Any], folder: Path) -> None:
    """Fill what is empty, then tell everybody what is there.

    Raises:
        KeysError: a Secret or ConfigMap can't be read or changed, or holds half of a key.
    """
    trusted: dict[str, str] = {}
    for each in plan["bus"]:
        name = each["name"]
        files = {KEY: folder / "bus" / f"{name}.pem", TRUSTED: folder / "bus" / "trusted" / f"{name}.json"}
        trusted[f"{name}.json"] = fill(core, Wanted(each["namespace"], each["secret"], files))[TRUSTED].decode()
    vouching = []
    for each in plan["kernels"]:
        place = folder / each["name"]
        files = {KEY: place / f"{each['name']}.pem", PUBLIC: place / PUBLIC}
        vouching.append(fill(core, Wanted(each["namespace"], each["secret"], files))[PUBLIC])
    for each in plan["logins"]:
        place = folder / "logins" / each["secret"]
        files = {each[half]: place / half for half in ("user", "password")}
        fill(core, Wanted(each["namespace"], each["secret"], files))
    for each in plan["told"]:
        namespace = each["namespace"]
        tell(core, namespace, each["trusted"], trusted)
        # What an older key has signed is still believed.
        known = told(core, namespace, each["kernels"], PUBLIC)
        tell(core, namespace, each["kernels"], {PUBLIC: joined([*known, *vouching])})


def main() -> None:
    """Run once. Exit codes: 0 every key is there and told, 3 not."""
    try:
        config.load_config()  # type: ignore[no-untyped-call]
        with client.ApiClient() as api:
            keep(client.CoreV1Api(api), json.loads(os.environ["ESPER_KEYS_PLAN"]), Path(os.environ["ESPER_KEYS_DIR"]))
    except (KeysError, config.ConfigException, OSError) as error:
        print(f"esper-operator-keys: {error}", file=sys.stderr)
        sys.exit(FAILED)
    print("every key is there and told")


if __name__ == "__main__":
    main()
