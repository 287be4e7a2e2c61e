"""What the checks of alerts and dashboard need."""
