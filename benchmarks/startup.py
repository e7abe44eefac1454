"""How soon a short-lived process gets to work: how long the import takes, and how long after its start the first RPC arrives.

Every sample is a fresh interpreter that imports and then orders one image. The time of the import is taken inside; the arrival
of the first RPC, of whatever kind, is the server's time stamp less the moment before the process was started. The column
`order` is the arrival of `Generate`: a client that discovers addresses first has it later.

Our names are loaded when they are first used, so there are two imports: that of the package, and that of `YandexArt` from it.
"""

import subprocess
import sys
import time

from benchmarks.measure import Measured, Report, Server, median, ratio, serving

GRPC, RAW, CLOUD, STUDIO = "import grpc", "raw stubs", "yandexcloud", "yandex-ai-studio-sdk"
PACKAGE, OURS = "import yandexart_grpc", "ours"
ROUNDS = 15
IMPORT_TARGET, FIRST_TARGET = 1.4, 1.15
FOLDER, KEY = "b1gfolder", "AQVNkey"

SERVICE = "yandex.cloud.ai.foundation_models.v1.image_generation"
RAW_ORDER = """
request = service.ImageGenerationRequest(model_uri="art://{folder}/yandex-art/latest", messages=[image.Message(text="a red cat")])
stub.Generate(request, timeout=30, metadata=(("authorization", "Api-Key {key}"),))
"""
SCRIPTS = {
    GRPC: ("import grpc", ""),
    RAW: (
        f"""
import grpc
from yandexart_pb.{SERVICE} import image_generation_pb2 as image
from yandexart_pb.{SERVICE} import image_generation_service_pb2 as service
from yandexart_pb.{SERVICE} import image_generation_service_pb2_grpc as stubs
""",
        'stub = stubs.ImageGenerationAsyncServiceStub(grpc.insecure_channel("{target}"))' + RAW_ORDER,
    ),
    PACKAGE: ("import yandexart_grpc", ""),
    OURS: (
        "from yandexart_grpc import YandexArt",
        'YandexArt(folder_id="{folder}", credentials="{key}", endpoint="http://{target}").submit("a red cat")',
    ),
    CLOUD: (
        f"""
import yandexcloud
from {SERVICE} import image_generation_pb2 as image
from {SERVICE} import image_generation_service_pb2 as service
from {SERVICE} import image_generation_service_pb2_grpc as stubs
""",
        """
sdk = yandexcloud.SDK(iam_token="t1.token")
stub = sdk.client(stubs.ImageGenerationAsyncServiceStub, endpoint="{target}", insecure=True)
"""
        + RAW_ORDER,
    ),
    STUDIO: (
        "from yandex_ai_studio_sdk import AIStudio",
        """
studio = AIStudio(folder_id="{folder}", auth="{key}", endpoint="{target}", verify=False)
studio.models.image_generation("yandex-art").run_deferred("a red cat")
""",
    ),
}
"""What each contestant imports, and how it orders an image."""
TIMED = """
import time
began = time.perf_counter()
{imports}
print(time.perf_counter() - began, flush=True)
{order}
import os
os._exit(0)
"""


def sample(name: str, server: Server) -> Measured:
    """Start one process and wait for its end; times in seconds."""
    imports, order = SCRIPTS[name]
    script = TIMED.format(imports=imports, order=order.format(target=server.target, folder=FOLDER, key=KEY))
    server.reset()
    began = time.monotonic()
    said = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True).stdout
    measured = {"import": float(said)}
    if order:
        ledger = server.report()
        measured |= {"first": ledger["first_call"] - began, "order": ledger["operations"][0]["born"] - began}
    return measured


def main() -> None:
    """Run it all."""
    with (
        Report("startup", "startup: import, and process start to the first RPC") as report,
        serving("--bytes", "10000") as server,
    ):
        samples: dict[str, list[Measured]] = {name: [] for name in SCRIPTS}
        for number in range(ROUNDS + 1):
            for name in SCRIPTS:
                measured = sample(name, server)
                if number:  # before that, files are not in the cache yet
                    samples[name].append(measured)
        for name, taken in samples.items():
            target = IMPORT_TARGET if name == PACKAGE else ""
            values = {"ms": median(taken, "import") * 1e3}
            report.row("import", name, values, ratio=ratio(taken, samples[GRPC], "import"), target=target)
        for name, taken in samples.items():
            if SCRIPTS[name][1]:
                values = {"ms": median(taken, "first") * 1e3, "order, ms": median(taken, "order") * 1e3}
                target = FIRST_TARGET if name == OURS else ""
                report.row("first RPC", name, values, ratio=ratio(taken, samples[RAW], "first"), target=target)


if __name__ == "__main__":
    main()
