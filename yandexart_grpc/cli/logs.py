"""How the log is written: as text for people, or as one JSON object a line."""

import json
import logging
from datetime import UTC, datetime

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """Writes each record as one line of JSON: when, how grave, from where and what, and whatever `fields` it came with."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(kind: str, *, verbose: bool) -> None:
    """Write the log to stderr, as "text" or "json": what goes wrong; in JSON the life of a server's operations too; or all.

    What was set up before is replaced.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if kind == "json" else logging.Formatter(TEXT))
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("yandexart_grpc").setLevel(logging.INFO if verbose else logging.WARNING)
    if kind == "json":
        logging.getLogger("yandexart_grpc.server.operations").setLevel(logging.INFO)
