"""An HTTP server with OpenAI's API for a build of `patch-compile build`; see README.md."""
