"""One record straight to a broker's socket, for records that no client library sends.

Sources: the Kafka protocol guide, Produce version 3, and the record batch format, version 2.
"""

from __future__ import annotations

import socket
import struct
import time


def produce_raw(bootstrap_servers: str, topic: str, value: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Produce to partition 0; header names are any bytes."""
    host, _, port = bootstrap_servers.partition(",")[0].rpartition(":")
    body = (
        struct.pack(">hhih", 0, 3, 1, -1)  # Produce, version 3, correlation id, no client id
        + struct.pack(">hhi", -1, -1, 10_000)  # no transaction, acks of all, timeout
        + _array(_string(topic) + _array(struct.pack(">i", 0) + _bytes(_batch(value, headers))))
    )
    with socket.create_connection((host, int(port)), 10) as broker, broker.makefile("rb") as answers:
        broker.sendall(_bytes(body))
        answer = answers.read(struct.unpack(">i", answers.read(4))[0])
    # Correlation id, one topic with its name, one partition with its number, and then the error.
    (error,) = struct.unpack_from(">h", answer, 4 + 4 + 2 + len(topic) + 4 + 4)
    assert error == 0, f"Kafka answered with error {error}"


def _batch(value: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    fields = b"".join(_varint(len(part)) + part for header in headers for part in header)
    record = b"\0" + _varint(0) + _varint(0) + _varint(-1) + _varint(len(value)) + value
    record += _varint(len(headers)) + fields
    now = int(time.time() * 1000)
    checked = struct.pack(">hiqqqhii", 0, 0, now, now, -1, -1, -1, 1) + _varint(len(record)) + record
    rest = struct.pack(">ibI", -1, 2, _crc32c(checked)) + checked
    return struct.pack(">q", 0) + _bytes(rest)


def _varint(number: int) -> bytes:
    number = number << 1 ^ number >> 63
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _array(only: bytes) -> bytes:
    return struct.pack(">i", 1) + only


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _bytes(content: bytes) -> bytes:
    return struct.pack(">i", len(content)) + content


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF
