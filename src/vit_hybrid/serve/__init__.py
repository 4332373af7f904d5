"""A server that says over HTTP what is in pictures; `server.run` is the way in."""
