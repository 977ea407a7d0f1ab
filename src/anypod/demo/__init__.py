"""demo: a small shop written twice, once for one process that never dies and once for any pod.

`broken.py` and `fixed.py` serve the same routes with the same bodies; a diff of the two is the
lesson. What does not differ (the database, what a request may contain, who may log in) is shared,
so that nothing else is in that diff. `shop.http` is the workload that `anypod prove` plays, and a
file that an editor can run.
"""
