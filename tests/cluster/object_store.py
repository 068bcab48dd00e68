"""An S3 server on this machine, which can be made to fail."""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "runs"
_KEY = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
_AWAY = b"<Error><Code>ServiceUnavailable</Code><Message>away</Message></Error>"


class ObjectStore:
    """Keeps objects in memory; ``is_away`` makes every request fail."""

    def __init__(self) -> None:
        """Listen on a free port."""
        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not a line for each request
        self.is_away, self.num_answered, self.num_refused = False, 0, 0
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ).create_bucket(Bucket=BUCKET)

    @property
    def env(self) -> dict[str, str]:
        """What makes processes find it."""
        return _KEY | {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": "us-east-1"}

    def _answer(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if not self.is_away:
            self.num_answered += 1
            return self._app(environ, start_response)  # type: ignore[no-any-return]
        self.num_refused += 1
        if self.num_refused % 2:  # one request is refused, the next one cut off
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("503 Service Unavailable", [("Content-Length", str(len(_AWAY)))])
        return [_AWAY]

    @property
    def files(self) -> Any:
        """Its files, by fsspec."""
        return fsspec.filesystem(
            "s3", endpoint_url=self.url, key="test", secret="test", skip_instance_cache=True
        )

    def copy_to(self, path: str, folder: Path) -> None:
        """Copy all that lies under ``path`` in the bucket into ``folder``."""
        self.files.get(f"{BUCKET}/{path}/", f"{folder}/", recursive=True)

    def copy_from(self, folder: Path, path: str) -> None:
        """Copy all that lies in ``folder`` to under ``path`` in the bucket."""
        self.files.put(f"{folder}/", f"{BUCKET}/{path}/", recursive=True)

    def end(self) -> None:
        """Stop answering."""
        self._server.shutdown()


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A store that ends with the block."""
    made = ObjectStore()
    try:
        yield made
    finally:
        made.end()
