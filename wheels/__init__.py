"""Makes what is published: the wheels."""
