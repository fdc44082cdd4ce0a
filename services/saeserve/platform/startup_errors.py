"""Why a service cannot start: one function for each code."""

from __future__ import annotations

from saeserve.errors import StartupError

NO_DEVICE = "NO_DEVICE"
"""Also the reason for which a worker gives back a job that needs a device."""


def bad_setting(
    message: str, *, remedy: str = "correct the environment variable and start again"
) -> StartupError:
    """The error for a setting whose value cannot be used."""
    return StartupError(message, code="BAD_SETTING", remedy=remedy)


def address_in_use(message: str, setting: str) -> StartupError:
    """The error for an address that cannot be listened at; `setting` is what to change."""
    return StartupError(
        message, code="ADDRESS_IN_USE", remedy=f"stop what listens there or set {setting}"
    )


def insecure_address(message: str, *, remedy: str) -> StartupError:
    """The error for an address that others could reach unprotected."""
    return StartupError(message, code="INSECURE_ADDRESS", remedy=remedy)


def no_broker(message: str, *, remedy: str) -> StartupError:
    """The error for a Valkey or Redis server that is not installed."""
    return StartupError(message, code="NO_BROKER", remedy=remedy)


def no_device(message: str, *, remedy: str) -> StartupError:
    """The error for an accelerator that is asked for and not there."""
    return StartupError(message, code=NO_DEVICE, remedy=remedy)
