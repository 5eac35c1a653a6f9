"""Holds the base of both packages: errors, settings, safe reading, durable writing, processes, threads, progress."""
