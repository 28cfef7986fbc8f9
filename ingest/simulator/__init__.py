"""An exchange to try the product on: Deribit's methods over real HTTP, prices anybody can recompute, and all its failures.

`market` is what the prices are, `faults` what can go wrong, `server` how it is served and steered.
"""
