"""prove: the service as replicas, judged against itself as one replica that never dies.

`workload` says what to send, `schedules` where and with which faults, `player` sends it to a
`replicas.World`, `compare` renames generated values and finds what differs, `shrink` reduces a
difference to the requests that show it, `cause` names the state behind it. `engine` strings these
together and emits `events`; it does not know who listens.
"""
