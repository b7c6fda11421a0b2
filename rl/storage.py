"""Storages of studies: opened from an address, and asked again while a network fails."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage

PATIENCE_S = 300.0
"""How long a shared storage may be out of reach before the search gives up; it can be resumed."""
_PAUSE_S = 1.0  # between two attempts; shorter than workers' heartbeats are apart
_FULL = ("too many clients", "Too many connections", "remaining connection slots")
_SECRET = ("user", "password", "passfile", "sslpassword", "sslkey")
_MOST_TRIES = 10  # to open a database in which others are just making the tables


class SearchError(Exception):
    """The search cannot start or go on; the message says why and what to do."""


def open_storage(address: str) -> BaseStorage:
    """Return the Optuna storage at an address: a path of an SQLite file, `grpc://host:port`, or
    what SQLAlchemy reads, such as `postgresql://user@host/name`.

    Raises:
        SearchError: it cannot be reached, or a package for it is missing.
    """
    if "://" not in address:
        return sqlite_storage(address)
    scheme, rest = address.split("://", 1)
    tries, end = 0, time.monotonic() + PATIENCE_S
    while True:
        tries += 1
        try:
            made: BaseStorage = Patient(_open_shared(scheme, rest), without_password(address))
            return made
        except ImportError as error:
            raise SearchError(
                f"{scheme}:// needs {f'the package {error.name}' if error.name else 'a driver'}; "
                "install melbandit[cluster]."
            ) from None
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError) as error:
            problem: Exception = error
            if tries < _MOST_TRIES:
                time.sleep(random.random())
                continue
        except sqlalchemy.exc.OperationalError as error:
            problem = error
            if any(words in str(error) for words in _FULL) and time.monotonic() < end:
                time.sleep(_PAUSE_S * (0.5 + random.random()))  # till others go
                continue
        except Exception as error:
            problem = error
        raise SearchError(
            f"{without_password(address)}: the storage cannot be opened ({_first_line(problem)}); "
            "check the address, and that its server runs."
        )


def sqlite_storage(database: str, **query: str) -> RDBStorage:
    """Return the storage in an SQLite file; a path may have any signs in it.

    database: its path, or with a query a URI that begins with file:.
    """
    url = sqlalchemy.URL.create("sqlite", database=database, query=query)
    wait = {"connect_args": {"timeout": 60}}
    return RDBStorage(url.render_as_string(), engine_kwargs=wait)


def without_password(address: str) -> str:
    """Return a storage's address without who comes to it, for messages and records.

    >>> without_password("postgresql://me:pa/ss@host/db?user=me&password=secret&sslmode=require")
    'postgresql://host/db?sslmode=require'
    """
    scheme, _, rest = address.partition("://")
    place, _, query = rest.rpartition("@")[2].partition("?")
    kept = [part for part in query.split("&") if part.partition("=")[0].lower() not in _SECRET]
    return f"{scheme}://{place}" + (f"?{'&'.join(kept)}" if any(kept) else "")


def _open_shared(scheme: str, rest: str) -> BaseStorage:
    if scheme == "grpc":
        host, _, port = rest.partition(":")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port or 13000))
        proxy.wait_server_ready(timeout=10)
        return proxy
    if scheme in ("postgresql", "postgres"):
        scheme = "postgresql+psycopg"
    # a worker's process asks from two threads; many machines share what the server can bear
    few = {} if scheme.startswith("sqlite") else {"pool_size": 2, "max_overflow": 2}
    return get_storage(RDBStorage(f"{scheme}://{rest}", engine_kwargs=few))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_outage(error: Exception) -> bool:
    """Return whether it is the way to the storage that failed, so that asking again may help."""
    failures = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
    if isinstance(error, failures):
        return True
    if isinstance(error, StorageInternalError):
        return isinstance(error.__cause__, failures)
    # grpc.RpcError, without importing grpc where it is not in use; a proxy says UNKNOWN where the
    # database behind it does not answer
    code = getattr(error, "code", None)
    return callable(code) and getattr(code(), "name", "") in ("UNAVAILABLE", "UNKNOWN")


def _ask(name: str) -> Callable[..., Any]:
    """Return the method `name` that asks the storage behind until it answers.

    A change whose answer was lost is made twice, which leaves things as they are, but for a new
    trial: the first one has no one who works on it, and is dealt with as if its worker had died.
    """

    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        end, pause_s = time.monotonic() + PATIENCE_S, 0.0
        while True:
            try:
                return getattr(self._behind, name)(*args, **kwargs)
            except Exception as error:
                if not _is_outage(error):
                    raise
                if time.monotonic() > end:
                    raise SearchError(
                        f"{self._where}: the storage has not answered for {PATIENCE_S:.0f} s "
                        f"({_first_line(error)}); run the search again to resume."
                    ) from None
                time.sleep(pause_s)  # at once at first: an idle connection may have been closed
                pause_s = _PAUSE_S

    return ask


def _init(self: Any, behind: BaseStorage, where: str) -> None:
    self._behind, self._where = behind, where


Patient: Any = type(
    "Patient",
    (BaseStorage,),
    {
        "__doc__": "A storage that is asked again, for a while, when it is out of reach.",
        "__init__": _init,
        **{name: _ask(name) for name in BaseStorage.__abstractmethods__},
    },
)
