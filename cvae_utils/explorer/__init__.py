"""What the sliders show."""
