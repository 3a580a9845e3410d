"""What tests of wsstream, and of programs built on it, need; shipped with the package.

`wsstream.testing.world` runs both ends of the protocol core over a faulty link in virtual time::

    python -m wsstream.testing.world --seeds 0-1000
"""
