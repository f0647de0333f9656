"""Several processes that serve one port, on one engine: `--frontends N`. Knows no vLLM.

supervisor.py         the process that was started: to `lifetime.py` what the one server is
frontend_process.py   one of the others, as the supervisor sees it
frontend.py           one of the others, as it sees itself
nursery.py            where they are forked from
port.py               the port that all of them serve
link.py, messages.py  how they talk, and about what
desk.py               has the calls of a frontend pass the supervisor's gate
remote_gate.py        that gate, as a frontend sees it
"""

from talkwire_server.frontends.supervisor import Supervisor

__all__ = ["Supervisor"]
