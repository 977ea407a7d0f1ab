"""Primitives: what a handler uses. Each decides; none does I/O.

Every operation is written once, as a flow, and offered twice: `hit()` blocks, `ahit()` awaits.
"""
