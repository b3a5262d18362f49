"""Weatherlight: composes and supervises the organs of one machine."""
