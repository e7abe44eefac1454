"""A room: many images from a file of prompts into a folder, paid for once however often the work is interrupted.

    from yandexart_grpc import YandexArt, batch

    rows = batch.read_rows("prompts.csv", folder_id="b1g…")
    with YandexArt(folder_id="b1g…", credentials="AQVN…") as art:
        summary = batch.run(art, rows, "pictures")

`rows` reads them, `settle` decides what is left to do, `work` does it, `ledger` knows what was ordered, or `shared` for many at
once, `manifest` tells it to others, and `folder` names and writes the images.
"""

from yandexart_grpc.batch.face import plan, run
from yandexart_grpc.batch.folder import FolderError
from yandexart_grpc.batch.rows import Form, Reading, Row, check_rows, read_rows
from yandexart_grpc.batch.settle import Plan
from yandexart_grpc.batch.work import Summary

__all__ = ["FolderError", "Form", "Plan", "Reading", "Row", "Summary", "check_rows", "plan", "read_rows", "run"]
