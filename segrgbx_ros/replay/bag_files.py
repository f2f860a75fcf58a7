"""One storage file of a recording: MCAP or SQLite, read by rosbags; what is wrong with a bad one.

rosbags raises whatever its parsers and decompressors raise, and refuses a file for one channel
that is not of ROS. Here every failure becomes one sentence whose cause was looked at.
"""

from __future__ import annotations

import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import apsw
import lz4.frame
from rosbags.interfaces import Connection, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import Reader, storage_mcap

from segrgbx_core.base.errors import DataError, SegrgbxError, shortened

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_BYTES = 1 << 29
"""Largest chunk or message; a few bytes of compressed data can claim any size."""
_ZSTD_SUFFIXES = (".zstd", ".zst")
_STORAGE_SUFFIXES = (".mcap", ".db3")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MCAP_MAGIC = b"\x89MCAP0\r\n"
_SQLITE_MAGIC = b"SQLite format 3\0"


class BagFile:
    """A storage file; use it in a `with` block.

    Args:
        path: `.mcap` or `.db3`, perhaps compressed as a whole (`.zstd`, `.zst`).

    Attributes:
        connections: those of ROS messages, which are serialised as CDR.
        count: number of messages.
        start_ns: receive time of the first message in ns.
        end_ns: receive time of the last message in ns.
        warning: what is missing from it, empty for nothing.

    Raises:
        DataError: on entering, with the cause.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self.count = self.start_ns = self.end_ns = 0
        self.warning = _write_ahead_log(path)
        self._stack = ExitStack()
        self._reader: Reader | None = None

    def __enter__(self) -> BagFile:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def messages(self, wanted: Collection[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        """Connection, receive time in ns and CDR bytes of each message, in receive order.

        Raises:
            DataError: where the file is damaged.
        """
        assert self._reader is not None
        with library_faults(str(self.path), lambda: _damage(self.path)):
            for connection, receive_ns, raw in self._reader.messages(list(wanted)):
                yield connection, receive_ns, unpacked_message(bytes(raw))

    def _open(self) -> None:
        with library_faults(str(self.path), lambda: _damage(self.path)):
            plain = self._unpacked()
            reader = Reader(plain)
            with _known_definitions():
                reader.open()
            self._stack.callback(reader.close)
            self._reader = reader
            self.connections = [
                one
                for one in reader.connections
                if getattr(one.ext, "serialization_format", "cdr") == "cdr"
            ]
            self.count = reader.message_count
            self.start_ns, self.end_ns = reader.start_time, reader.end_time - 1

    def _unpacked(self) -> Path:
        """The file itself, or an unpacked copy of it."""
        if self.path.suffix not in _ZSTD_SUFFIXES:
            return self.path
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        copy = folder / self.path.stem
        with self.path.open("rb") as packed, copy.open("wb") as plain:
            try:
                with zstd.open(packed, "rb") as unpacker:
                    shutil.copyfileobj(unpacker, plain)
            except OSError as error:
                where = tempfile.gettempdir()
                raise DataError(
                    f"{self.path}: cannot be unpacked in {where} ({error.strerror}); set TMPDIR "
                    "to a disk with room"
                ) from None
        return copy


def is_storage(path: Path) -> bool:
    """True for a storage file by its name, compressed or not."""
    inner = Path(path.stem) if path.suffix in _ZSTD_SUFFIXES else path
    return inner.suffix in _STORAGE_SUFFIXES and not path.name.startswith(".")


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Sorts `run_10.mcap` after `run_9.mcap`."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)]


def unpacked_message(raw: bytes) -> bytes:
    """CDR bytes of a message, which a recorder may have compressed one by one.

    CDR begins with a zero byte, so the magic number of zstd is unambiguous.

    Raises:
        DataError: when the bytes are no zstd data, or unpack to more than `MAX_BYTES`.
    """
    return _unpack_zstd(raw, MAX_BYTES) if raw[:4] == _ZSTD_MAGIC else raw


@contextmanager
def library_faults(place: str, cause: Callable[[], str] | None = None) -> Iterator[None]:
    """Turns whatever a parser raises into one sentence.

    Args:
        place: file, or file and message.
        cause: looks for a better reason than the parser's own words; empty where it finds none.
    """
    try:
        yield
    except (SegrgbxError, GeneratorExit, KeyboardInterrupt):
        raise
    except Exception as error:  # sqlite, zstd, lz4, yaml and rosbags share no base class
        reason = cause() if cause else ""
        words = reason or f"cannot be read: {_sentence(error, place)}"
        raise DataError(f"{place}: {words}") from error


def _sentence(error: Exception, place: str) -> str:
    """A library's message without the place, its line breaks and its final stop."""
    if isinstance(error, MemoryError):
        return "it claims more than the memory holds"
    if isinstance(error, EOFError):
        return "it ends early"
    if type(error).__module__ in ("builtins", "struct", "_struct") and not isinstance(
        error, OSError
    ):
        return "its bytes do not fit together"  # a parser stumbled; its words say nothing
    words = str(error).replace(f" {place}", "")
    return shortened(" ".join(words.split()).rstrip(".")) or type(error).__name__


def _damage(path: Path) -> str:
    """What is wrong with a storage file, as far as its first and last bytes show."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _damage_of(path, file, size)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _damage_of(path: Path, file: BinaryIO, size: int) -> str:
    if size == 0:
        return "is empty; the recorder wrote nothing into it"
    head = file.read(100)
    if path.suffix in _ZSTD_SUFFIXES:
        return "" if head.startswith(_ZSTD_MAGIC) else "is no zstd file, whatever its name says"
    if path.suffix == ".mcap":
        if not head.startswith(_MCAP_MAGIC):
            return "is no MCAP file, whatever its name says"
        file.seek(-min(size, len(_MCAP_MAGIC)), 2)
        if file.read() != _MCAP_MAGIC:
            return (
                "ends without its index, as a killed recorder or an interrupted copy leaves it; "
                "'mcap recover' keeps what is whole"
            )
    if path.suffix == ".db3":
        if not head.startswith(_SQLITE_MAGIC):
            return "is no SQLite database, whatever its name says"
        pages, page = struct.unpack_from(">I", head, 28)[0], struct.unpack_from(">H", head, 16)[0]
        whole = pages * (1 << 16 if page == 1 else page)
        if size < whole:
            return (
                f"holds {size} of its {whole} bytes, as an interrupted copy leaves it; copy it "
                "anew, or try 'sqlite3 FILE .recover'"
            )
    return ""


def _write_ahead_log(path: Path) -> str:
    """A sentence where SQLite still keeps messages beside the database."""
    log = path.with_name(path.name + "-wal")
    if path.suffix != ".db3" or not log.exists() or log.stat().st_size == 0:
        return ""
    return (
        f"{path}: messages in {log.name}, where a killed recorder left them, are not read; "
        f"'sqlite3 {path.name} \"pragma wal_checkpoint\"' puts them into the database"
    )


def _unpack_zstd(data: bytes, limit: int) -> bytes:
    unpacker = zstd.ZstdDecompressor()
    raw = unpacker.decompress(data, max_length=limit)
    if not unpacker.eof:
        raise DataError(f"compressed data end early or unpack to more than {limit} bytes")
    return raw


def _unpack_lz4(data: bytes, limit: int) -> bytes:
    unpacker = lz4.frame.LZ4FrameDecompressor()
    raw = bytes(unpacker.decompress(data, max_length=limit))
    if not unpacker.eof:
        raise DataError(f"compressed data end early or unpack to more than {limit} bytes")
    return raw


def _chunk(unpack: Callable[[bytes, int], bytes]) -> Callable[[bytes, int], bytes]:
    def unpacked(data: bytes, size: int) -> bytes:
        if size > MAX_BYTES:
            raise DataError(f"a chunk claims {size} bytes; at most {MAX_BYTES} are read")
        return unpack(data, size)

    return unpacked


@contextmanager
def _known_definitions() -> Iterator[None]:
    """Hides message definitions of another form from rosbags, which refuses a database for one.

    A recorder writes the form `unknown` where a message package was not installed.
    """

    def hide(connection: apsw.Connection) -> None:
        connection.execute(
            "CREATE TEMP VIEW message_definitions AS SELECT * FROM main.message_definitions "
            "WHERE encoding IN ('ros2msg', 'ros2idl')"
        )

    apsw.connection_hooks.append(hide)
    try:
        yield
    finally:
        apsw.connection_hooks.remove(hide)


def _definition(schema: Any) -> MessageDefinition:
    """As of rosbags, and no definition for schemas of another kind."""
    forms = {
        "ros2msg": MessageDefinitionFormat.MSG,
        "ros2idl": MessageDefinitionFormat.IDL,
        "omgidl": MessageDefinitionFormat.IDL,
    }
    if schema is None or schema.encoding not in forms:
        return MessageDefinition(MessageDefinitionFormat.NONE, "")
    return MessageDefinition(forms[schema.encoding], schema.data)


def _text(file: BinaryIO) -> str:
    """Text of a record; the schema of a protobuf channel is none."""
    return storage_mcap.read_bytes(file).decode(errors="replace")


# rosbags has no hook for these: it refuses a file for the schema of one foreign channel, and makes
# room for whatever a chunk unpacks to.
vars(storage_mcap).update(get_msgdef=_definition, read_string=_text)
storage_mcap.DECOMPRESSORS.update(zstd=_chunk(_unpack_zstd), lz4=_chunk(_unpack_lz4))
