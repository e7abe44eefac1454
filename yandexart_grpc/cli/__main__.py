"""`python -m yandexart_grpc.cli`."""

from yandexart_grpc.cli import main

main()
