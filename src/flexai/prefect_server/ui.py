"""Where people look at what a Prefect API shows programs.

A server has two UIs, at two addresses, and shows one of them where a browser has not chosen. A link to a page of the
other one leads to that other one: so links are made for the one that is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexai.checkpoints.errors import CheckpointError, NotFoundError
from flexai.prefect_server.finding import PrefectAPI, find_api, started_api

if TYPE_CHECKING:
    from flexai.prefect_server.rest import PrefectREST

LOGOS_PATH = "/flexai-logos/"
"""Where the server of ``flexai up`` has the pictures of the kinds of connections."""
CATALOG_KEY = "catalog"
"""The key of the artifact that is the page about the whole catalog."""
_FIRST_PAGE = """# Catalog

No run has changed a checkpoint yet. Each one that does makes this page anew, and so does the deployment *Report the
catalog*.
"""


def ui_address(url: str) -> str:
    """The address of the UI of an API's own server; it leads on to the UI that is shown."""
    return url.rstrip("/").removesuffix("/api")


def shown_ui(api: PrefectAPI) -> str:
    """The address of the UI that an API's own server shows, without a slash at its end; empty where it has none.

    One that does not say is taken for a server with a single UI.
    """
    from flexai.prefect_server.rest import PrefectREST

    base = ui_address(api.url)
    if base == api.url.rstrip("/"):
        return ""  # Prefect Cloud's, whose UI is at another address
    try:
        found = PrefectREST(PrefectAPI(base, api.origin, api.credential)).get("/ui-settings")
    except CheckpointError:
        return base
    if not isinstance(found, dict) or "available_uis" not in found:
        return base
    if not found["available_uis"]:
        return ""
    path = str(found.get(f"{found.get('default_ui')}_base_url") or "").rstrip("/")
    return f"{base}{path}"


def own_server() -> str:
    """The address of the server of ``flexai up`` where that is the one in use; empty elsewhere."""
    started, used = started_api(), find_api()
    return ui_address(started.url) if started and used and used.url.rstrip("/") == started.url else ""


def catalog_page(server: PrefectREST, *, create: bool = False) -> str:
    """Where the page about the whole catalog is; empty where there is none, or no UI.

    A server that has none gets an empty one where that is to be created, so that a link to it leads somewhere.
    Raises what the API raises.
    """
    try:
        server.get(f"/artifacts/{CATALOG_KEY}/latest")
    except NotFoundError:
        if not create:
            return ""
        server.post("/artifacts/", {"key": CATALOG_KEY, "type": "markdown", "data": _FIRST_PAGE})
    base = shown_ui(server.api)
    return f"{base}/artifacts/key/{CATALOG_KEY}" if base else ""
