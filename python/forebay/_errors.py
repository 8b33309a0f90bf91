"""What can go wrong, under `forebay.Error`, and under the built-in exception that people expect.

An error's text says what, where and what to do, with its causes behind it. Where it points somewhere, `location` is the
object's URL, `member` the sample's member or key, and `offset` the byte.
"""

import builtins


class Error(Exception):
    """Anything that Forebay raises on its own account."""

    location: str | None = None
    """URL of the object that it is about."""
    member: str | None = None
    """Name of the member, or key of the sample, that it is about."""
    offset: int | None = None
    """Byte in the object (of the decompressed stream, for a gzip shard)."""


class ConfigError(Error, ValueError):
    """An argument that can't be used."""


class NotFoundError(Error, FileNotFoundError):
    """The origin has no such object."""


class PermissionError(Error, builtins.PermissionError):
    """The origin refused the credentials, or there were none."""


class OriginError(Error, ConnectionError):
    """The origin failed after every retry."""


class ChangedError(OriginError):
    """An object was replaced at the origin while it was in use."""


class TimeoutError(Error, builtins.TimeoutError):
    """Nothing moved for `timeout` seconds."""


class StalledError(OriginError, TimeoutError):
    """The origin, or the network to it, sent no byte for too long."""


class DataError(Error, ValueError):
    """A shard, a member or a sample that is not what it claims to be."""


class StateError(Error, ValueError):
    """A state that doesn't belong here, ranks that disagree, or a loader that was closed."""


class CacheError(Error, OSError):
    """The cache folder can't be used."""


class DeviceError(Error, RuntimeError):
    """There is no driver, or the device can't do what is asked for: its memory is full, or it was lost."""


class ForkError(Error, RuntimeError):
    """A forked child touched what belongs to its parent."""


class InternalError(Error, RuntimeError):
    """A bug in Forebay."""


_CLASSES = {
    each.__name__: each
    for each in (
        Error,
        ConfigError,
        NotFoundError,
        PermissionError,
        OriginError,
        ChangedError,
        TimeoutError,
        StalledError,
        DataError,
        StateError,
        CacheError,
        DeviceError,
        ForkError,
        InternalError,
    )
}
for _class in _CLASSES.values():
    _class.__module__ = "forebay"


def _make(name: str, text: str, location: str | None, member: str | None, offset: int | None) -> Error:
    """The extension module's way to an exception."""
    error = _CLASSES.get(name, Error)(text)
    error.location, error.member, error.offset = location, member, offset
    return error
