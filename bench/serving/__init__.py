"""What bench/serve.py and bench/soak.py are made of."""
