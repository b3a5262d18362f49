"""Urza as a service: the library over REST for those who hold no database and no bucket credentials."""
