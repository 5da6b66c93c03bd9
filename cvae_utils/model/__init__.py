"""The VAE: network, losses, training, runs."""
