"""The door: which calls may run, how many do, and who goes next. Knows no sockets.

admission.py   checks a call and lets it in for the length of a block, or says why not
door.py        holds the places in which calls run, and those who wait for one
fair_queue.py  says who of them goes next, and who gives way where too many wait
accounts.py    counts what each caller has inside, and what it may still spend
estimates.py   tells how much a call is, before anything has counted it
pace.py        estimates waits
"""

from talkwire_server.admission.admission import Admission, request_id

__all__ = ["Admission", "request_id"]
