"""How the operator reaches its cluster: as the pod it runs in, or by ``KUBECONFIG``."""

from __future__ import annotations

import os

from kubernetes.aio import client, config

REQUEST_SECONDS = 30.0
CONNECTIONS = 32


async def connect() -> client.ApiClient:
    """A client of the cluster; raises ``kubernetes.aio.config.ConfigException`` when nothing says where it is."""
    made = client.Configuration()
    given = os.environ.get("KUBECONFIG") or None
    if "KUBERNETES_SERVICE_HOST" in os.environ and given is None:
        config.load_incluster_config(client_configuration=made)  # type: ignore[no-untyped-call]
    else:
        await config.load_kube_config(given, client_configuration=made)  # type: ignore[no-untyped-call]
    made.connection_pool_maxsize = CONNECTIONS
    # Proxies are the kubeconfig's affair, as they are to the watches. The default looks for a .netrc before every
    # request, in a thread: a quarter of the operator's work, and for a password that is not the cluster's.
    made.client_session_kwargs = {"trust_env": False}
    return client.ApiClient(made)
