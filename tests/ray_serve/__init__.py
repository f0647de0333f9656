"""Tests of Ray, on one cluster."""
