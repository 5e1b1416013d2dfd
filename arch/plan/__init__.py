"""Planning without devices: what a run would need and take on chips that are not here."""
