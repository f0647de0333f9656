"""An engine without a model, for development, load tests and users' own CI."""

from functools import partial

from talkwire_server.echo.core import EchoCore
from talkwire_server.echo.engine import EchoEngine
from talkwire_server.frontends import nursery
from talkwire_server.settings import Settings

__all__ = ["EchoCore", "EchoEngine", "core", "load"]


def load(settings: Settings) -> EchoEngine:
    """Make the engine that settings ask for."""
    names = settings.served_model_name or ("echo",)
    return EchoEngine(names, settings.default_system, settings.echo_delay)


def core(settings: Settings) -> EchoCore:
    """Make what such engines of several processes share."""
    nursery.begin()
    return EchoCore(partial(load, settings))
