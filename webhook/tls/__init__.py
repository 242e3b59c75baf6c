"""Certificates, and where they come from."""
