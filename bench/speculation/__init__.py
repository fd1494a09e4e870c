"""The parts of bench/speculate.py."""
