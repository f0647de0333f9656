"""The door: which calls may run, how many do, and who goes next. Knows no sockets.

admission.py   checks a call and has it pass the gate, for the length of a block, or says why not
gate.py        knows who is inside; one for all processes of a server
door.py        holds the places in which calls run, and those who wait for one
fair_queue.py  says who of them goes next, and who gives way where too many wait
accounts.py    counts what each caller has inside, and what it may still spend
estimates.py   tells how much a call is, before anything has counted it
pace.py        estimates waits
"""

from talkwire_server.admission.admission import Admission, request_id
from talkwire_server.admission.gate import Bounds, Gate, LocalGate, State

__all__ = ["Admission", "Bounds", "Gate", "LocalGate", "State", "request_id"]
