"""A fleet of servers that exists in figures alone: what was measured of one, and many simulated."""
