"""The fault run: real servers and processes under every kind of fault, and an audit of every minute at the end.

`environment` holds the servers and processes, `faults` the faults, `audit` the checks of the result, `__main__` the run.
"""
