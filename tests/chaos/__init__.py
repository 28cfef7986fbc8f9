"""The fault run: real servers and processes, everything that goes wrong, and an account of every minute at the end.

`stand` is what runs, `faults` what is done to it, `verdict` what must be true afterwards, `__main__` the run itself.
"""
