"""Mathematics: pure functions of arrays, no framework; each is the reference of its kernel."""
