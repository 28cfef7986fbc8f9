"""The runtime that all processes share: logging, metrics, tracing, child processes, embedded servers, backup, command lines."""
