"""What a worker answers: its own state on the admin port, the model's API on the serving port."""
