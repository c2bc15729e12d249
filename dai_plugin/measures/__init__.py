"""What a network does under transformations."""
