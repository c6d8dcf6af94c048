"""Tests of the programs' wing."""
