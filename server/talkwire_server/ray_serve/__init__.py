"""The services of a server as replicas of Ray Serve. Importing this package does not import Ray.

command.py      `talkwire ray deploy FILE`: reads, asks the cluster, deploys, waits
config.py       reads a file: the flags of a server, and the key `ray`, which is replicas.py
cluster.py      asks each node what Ray was started with
application.py  makes of all that what Serve runs
replica.py      one replica: an engine, the handlers of a plain server, and where metrics are
gate.py         what lets calls in there, and ends those at other replicas, too
peers.py        what one replica asks of all
scaling.py      how many replicas the chats take
servicers.py    registers the rpcs with the gRPC servers that Serve has in each replica and proxy
context.py      gRPC's context of a call, or one in its place
"""
