"""The services of a server as replicas of Ray Serve. Importing this package does not import Ray.

command.py    `talkwire ray deploy config.yaml`
config.py     reads that file: settings of the server, and those of replicas (placement.py)
cluster.py    finds what the nodes of a cluster lack
application.py  makes of both what Serve runs
replica.py    one replica: an engine, its admission, and the handlers of a plain server
context.py    what those ask of gRPC's context, answered from Serve's
servicers.py  registers their rpcs with the gRPC server that Serve runs in each replica
"""
