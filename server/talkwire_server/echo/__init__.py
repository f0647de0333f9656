"""An engine without a model, for development, load tests and users' own CI."""

from talkwire_server.echo.engine import EchoEngine

__all__ = ["EchoEngine"]
