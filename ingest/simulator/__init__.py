"""A simulated Deribit for demos and tests: its methods over HTTP, reproducible prices, and all of its failures.

`market` computes the prices, `faults` defines the failures, `server` serves both and can be controlled over HTTP.
"""
