"""What trained models and their latent spaces tell."""
