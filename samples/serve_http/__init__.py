"""An OpenAI-compatible HTTP server for what `patch-compile build` wrote; see README.md."""
