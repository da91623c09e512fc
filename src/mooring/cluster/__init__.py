"""What runs where: the controller, the memory model, the launchers."""
