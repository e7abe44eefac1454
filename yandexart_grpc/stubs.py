"""The contract under short names: what a microservice imports to call the service, or to be one.

A stub takes a `grpc.Channel` or a `grpc.aio.Channel`. `<Service>AsyncStub` is the same class under the name that tells
a type checker of the second kind; write it in annotations, as in `def f(stub: OperationServiceAsyncStub)`.

    >>> channel = grpc.insecure_channel("localhost:50051")
    >>> service = ImageGenerationAsyncServiceStub(channel)  # service.Generate(request, timeout=10)
    >>> channel.close()

Everything here lives in a descriptor pool of its own, `POOL`, so it can be imported beside any release of
`yandexcloud`, before it or after it. For you this means:

* With `yandexcloud`, and whatever else keeps its messages in the default pool, exchange bytes. Objects are refused.

    >>> ours = Operation(id="fbv0", done=True)
    >>> ours.response.Pack(ImageGenerationResponse(image=b"JPEG"))
    >>> from yandex.cloud.operation import operation_pb2
    >>> theirs = operation_pb2.Operation.FromString(ours.SerializeToString())
    >>> theirs.id
    'fbv0'

* Fields of Google's types take the classes from here, `Any`, `Status` and `Timestamp`, not those of `google.protobuf`.
  Only `Pack` and `Unpack` accept messages of either pool: they exchange bytes themselves.

    >>> failed = Operation(id="fbv1", error=Status(code=3, message="refused"), modified_at=Timestamp(seconds=1))

* What looks up types by name has to be told where: JSON, as soon as there is an `Any` inside, and server reflection.

    >>> from google.protobuf import json_format
    >>> text = json_format.MessageToJson(ours, descriptor_pool=POOL)
    >>> json_format.Parse(text, Operation(), descriptor_pool=POOL).id
    'fbv0'

    >>> from grpc_reflection.v1alpha import reflection
    >>> name = GetOperationRequest.DESCRIPTOR.file.services_by_name["OperationService"].full_name
    >>> name
    'yandex.cloud.operation.OperationService'
    >>> server = grpc.server(ThreadPoolExecutor())
    >>> reflection.enable_server_reflection([name], server, pool=POOL)

  The full name of a service, which health checks want too, is found in the file of its requests, as above.

* Where protobuf runs in pure Python (as on Alpine), `==` knows only the default pool: between messages with an `Any`
  inside it raises KeyError. Compare what `SerializeToString` gives.
"""

# No part of the contract, so they stay in the default pool and out of `__all__`: what `errors` reads in the details of a status.
from google.rpc.error_details_pb2 import ErrorInfo as ErrorInfo
from google.rpc.error_details_pb2 import RequestInfo as RequestInfo
from google.rpc.error_details_pb2 import RetryInfo as RetryInfo
from yandexart_pb._pool import POOL
from yandexart_pb.google.protobuf.any_pb2 import Any
from yandexart_pb.google.protobuf.timestamp_pb2 import Timestamp
from yandexart_pb.google.rpc.status_pb2 import Status
from yandexart_pb.yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_pb2 import (
    AspectRatio,
    ImageGenerationOptions,
    Message,
)
from yandexart_pb.yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_service_pb2 import (
    ImageGenerationRequest,
    ImageGenerationResponse,
)
from yandexart_pb.yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_service_pb2_grpc import (
    ImageGenerationAsyncServiceAsyncStub,
    ImageGenerationAsyncServiceServicer,
    ImageGenerationAsyncServiceStub,
    add_ImageGenerationAsyncServiceServicer_to_server,
)
from yandexart_pb.yandex.cloud.api.operation_pb2 import Operation as ApiOperation
from yandexart_pb.yandex.cloud.endpoint.api_endpoint_pb2 import ApiEndpoint
from yandexart_pb.yandex.cloud.endpoint.api_endpoint_service_pb2 import (
    GetApiEndpointRequest,
    ListApiEndpointsRequest,
    ListApiEndpointsResponse,
)
from yandexart_pb.yandex.cloud.endpoint.api_endpoint_service_pb2_grpc import (
    ApiEndpointServiceAsyncStub,
    ApiEndpointServiceServicer,
    ApiEndpointServiceStub,
    add_ApiEndpointServiceServicer_to_server,
)
from yandexart_pb.yandex.cloud.iam.v1.iam_token_service_pb2 import (
    CreateIamTokenForServiceAccountRequest,
    CreateIamTokenRequest,
    CreateIamTokenResponse,
    RevokeIamTokenRequest,
    RevokeIamTokenResponse,
)
from yandexart_pb.yandex.cloud.iam.v1.iam_token_service_pb2_grpc import (
    IamTokenServiceAsyncStub,
    IamTokenServiceServicer,
    IamTokenServiceStub,
    add_IamTokenServiceServicer_to_server,
)
from yandexart_pb.yandex.cloud.operation.operation_pb2 import Operation
from yandexart_pb.yandex.cloud.operation.operation_service_pb2 import CancelOperationRequest, GetOperationRequest
from yandexart_pb.yandex.cloud.operation.operation_service_pb2_grpc import (
    OperationServiceAsyncStub,
    OperationServiceServicer,
    OperationServiceStub,
    add_OperationServiceServicer_to_server,
)
from yandexart_pb.yandex.cloud.validation_pb2 import MapKeySpec

__all__ = [
    "POOL",
    "Any",
    "ApiEndpoint",
    "ApiEndpointServiceAsyncStub",
    "ApiEndpointServiceServicer",
    "ApiEndpointServiceStub",
    "ApiOperation",
    "AspectRatio",
    "CancelOperationRequest",
    "CreateIamTokenForServiceAccountRequest",
    "CreateIamTokenRequest",
    "CreateIamTokenResponse",
    "GetApiEndpointRequest",
    "GetOperationRequest",
    "IamTokenServiceAsyncStub",
    "IamTokenServiceServicer",
    "IamTokenServiceStub",
    "ImageGenerationAsyncServiceAsyncStub",
    "ImageGenerationAsyncServiceServicer",
    "ImageGenerationAsyncServiceStub",
    "ImageGenerationOptions",
    "ImageGenerationRequest",
    "ImageGenerationResponse",
    "ListApiEndpointsRequest",
    "ListApiEndpointsResponse",
    "MapKeySpec",
    "Message",
    "Operation",
    "OperationServiceAsyncStub",
    "OperationServiceServicer",
    "OperationServiceStub",
    "RevokeIamTokenRequest",
    "RevokeIamTokenResponse",
    "Status",
    "Timestamp",
    "add_ApiEndpointServiceServicer_to_server",
    "add_IamTokenServiceServicer_to_server",
    "add_ImageGenerationAsyncServiceServicer_to_server",
    "add_OperationServiceServicer_to_server",
]
