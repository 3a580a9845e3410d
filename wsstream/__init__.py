"""wsstream: one durable log per answer, many wires that read it.

>>> from wsstream.client import connect           # an asyncio client
>>> from wsstream.server import Server            # the server, to embed
>>> from wsstream.config import Config            # everything that can be set

Only what ``docs/`` names is public.
"""

__version__ = "0.1.0"
