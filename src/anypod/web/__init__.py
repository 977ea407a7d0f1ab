"""web: thin adapters, each through its framework's own seam, and the parts that are nobody's framework.

`flask` adapts Flask. `idempotency_key` knows the Idempotency-Key header and which answers are kept,
`problem` the body of a refusal; neither imports a framework.
"""
