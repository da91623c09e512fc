"""What happens to one request: who asks, whether it may, which worker, the answer."""
