"""What both packages stand on: errors, settings, safe reading, durable writing, processes, threads, progress."""
