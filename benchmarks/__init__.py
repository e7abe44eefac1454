"""What the client costs, measured beside its peers: see README.md here."""
