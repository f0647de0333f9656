"""What callers send to be compiled, each in a process of its own that ends when it costs too much.

plain.py     what costs next to nothing, and is left to vLLM alone
trials.py    the server's side: is a grammar compiled in time?
origin.py    the process from which those of the grammars are forked
follower.py  what one of them does
peer.py      the other end of its line
held.py      the engine's side: a grammar that is followed over there
"""
