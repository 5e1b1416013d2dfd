"""What is done to a trained model's parameters to make another model of it."""
