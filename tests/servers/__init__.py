"""Local servers that speak the protocols of the hubs; tests start them on loopback ports."""
